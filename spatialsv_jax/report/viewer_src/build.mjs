// Bundles main.js with the parts of three.js that it uses into ../viewer.js, one classic script: npm ci && npm run build
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { build } from "esbuild";

// tests/spatialsv_jax/report/test_viewer_files.py computes this sum too: a changed source without a new build fails.
const SOURCES = [
  "blob.js", "clouds.js", "controls.js", "dom.js", "legend.js", "main.js", "questions.js", "scenes.js", "stage.js", "viewer.css",
  "package-lock.json"
];
const sum = createHash("sha256");
for (const name of SOURCES) sum.update(readFileSync(name));

await build({
  entryPoints: ["main.js"],
  outfile: "../viewer.js",
  bundle: true,
  format: "iife",
  target: "es2021",
  minify: true,
  charset: "ascii",
  loader: { ".css": "text" },
  legalComments: "none",
  banner: {
    js: `/* Viewer of SpatialSV-JAX, built from viewer_src/ (sha256 ${sum.digest("hex")}). Contains three.js,\n` +
      "   Copyright 2010-2026 three.js authors, MIT licence: viewer_src/LICENSE-three.txt. */",
  },
});
