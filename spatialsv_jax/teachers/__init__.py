"""Published 3D foundation models that give labels: pictures in, depth, cameras, rays or points out (docs/teachers.md)."""
