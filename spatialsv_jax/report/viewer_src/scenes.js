// The scenes of all runs under their names, which of them a filter leaves, and their questions.

/** Scenes by id, in the order of the runs: [{id, tags, of: [scene or null per run], error, wrong}]. */
export function mergeScenes(runs) {
  const found = new Map();
  runs.forEach((run, number) => {
    for (const scene of run.scenes) {
      if (!found.has(scene.id)) found.set(scene.id, { id: scene.id, tags: scene.tags, of: runs.map(() => null) });
      found.get(scene.id).of[number] = scene;
    }
  });
  const scenes = [...found.values()];
  for (const scene of scenes) {
    const errors = scene.of.map((one) => one?.abs_rel ?? null).filter((value) => value !== null);
    scene.error = errors.length ? Math.max(...errors) : null; // of the worst run
    scene.questions = mergeQuestions(scene.of);
    scene.wrong = scene.questions.filter(isWrong).length;
  }
  return scenes;
}

/** The questions of one scene with every run's answer: [{...question, answers: [{prediction, correct} or null per run]}]. */
function mergeQuestions(scenes) {
  const found = new Map();
  scenes.forEach((scene, run) => {
    const times = new Map(); // equal questions are told apart by their order
    for (const question of scene?.questions || []) {
      const text = JSON.stringify([question.question, question.options || [], question.ground_truth ?? null]);
      times.set(text, (times.get(text) || 0) + 1);
      const key = `${text} ${times.get(text)}`;
      if (!found.has(key)) found.set(key, { ...question, answers: scenes.map(() => null) });
      found.get(key).answers[run] = { prediction: question.prediction, correct: question.correct ?? null };
    }
  });
  return [...found.values()];
}

/** Whether a run's answer scores below one half. */
export const isWrongAnswer = (answer) => answer !== null && answer.correct !== null && answer.correct < 0.5;

/** Whether any run's answer is wrong. */
export const isWrong = (question) => question.answers.some(isWrongAnswer);

/**
 * The scenes that a filter leaves, in its order. filter: {wrong: only with wrong answers, share: only the worst share by depth
 * error (1 = all), order: "given", "error" or "wrong"}. Scenes without a depth error are in no worst share.
 */
export function filterScenes(scenes, { wrong, share, order }) {
  const byError = scenes.filter((scene) => scene.error !== null).sort((a, b) => b.error - a.error);
  const worst = share < 1 ? new Set(byError.slice(0, Math.ceil(share * byError.length))) : null;
  const left = scenes.filter((scene) => (!wrong || scene.wrong > 0) && (!worst || worst.has(scene)));
  const keys = { given: () => 0, error: (scene) => -(scene.error ?? -1), wrong: (scene) => -scene.wrong };
  return left.sort((a, b) => keys[order](a) - keys[order](b)); // sort is stable
}
