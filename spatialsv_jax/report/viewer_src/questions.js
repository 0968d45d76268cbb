// The questions of the chosen scene with every run's answer.

import { check, element } from "./dom.js";
import { isWrong, isWrongAnswer } from "./scenes.js";

export class Questions {
  constructor(viewer) {
    this.viewer = viewer;
    this.onlyWrong = false;
    this.chosen = null;
    this.rows = element("div", { className: "list" });
    this.answer = element("div", { className: "answer" });
    const filter = check("wrong answers only", false, (on) => {
      this.onlyWrong = on;
      this.list();
    });
    this.element = element("div", { className: "side questions" }, filter, this.rows, this.answer);
  }

  /** Shows another scene's. */
  show() {
    this.chosen = null;
    this.list();
  }

  choose(question) {
    this.chosen = question === this.chosen ? null : question;
    for (const [one, button] of this.buttons) button.setAttribute("aria-pressed", one === this.chosen);
    this.reply();
    this.viewer.paint();
  }

  list() {
    const all = this.viewer.scene.questions;
    const rows = this.onlyWrong ? all.filter(isWrong) : all;
    const known = all.filter((one) => one.answers.some((answer) => answer && answer.correct !== null));
    const heading = `${rows.length} of ${all.length} questions, ${known.length} with a score`;
    this.buttons = new Map(
      rows.map((question) => {
        const button = element("button", { type: "button", onclick: () => this.choose(question) }, question.question);
        button.classList.toggle("wrong", isWrong(question));
        button.setAttribute("aria-pressed", question === this.chosen);
        return [question, button];
      }),
    );
    this.rows.replaceChildren(element("p", { className: "status" }, heading), ...this.buttons.values());
    this.reply();
  }

  /** The answers to the chosen question, and what it is about. */
  reply() {
    const { runs, scene } = this.viewer;
    const question = this.chosen;
    if (!question) {
      this.answer.replaceChildren(scene.questions.length ? "Choose a question for its answer and its objects." : "");
      return;
    }
    const replies = question.answers.map((answer, run) => {
      const who = runs.length > 1 ? `${runs[run].name}: ` : "Answer: ";
      if (!answer) return element("p", {}, `${who}not asked`);
      const mark = isWrongAnswer(answer) ? "wrong" : answer.correct === 1 ? "right" : "";
      const score = answer.correct === null ? "" : `, score ${answer.correct.toFixed(2)}`;
      return element("p", {}, who, element("b", { className: mark }, answer.prediction || "(nothing)"), score);
    });
    const objects = this.viewer.objects();
    const named = (question.objects || []).map((place) => objects[place]);
    const about = !objects.length
      ? "The data names no objects; only the cameras of its views are marked."
      : named.length
        ? `Marked: ${named.join(", ")}`
        : "It names no object of the data.";
    const letters = (question.options || []).map((option, place) => `${String.fromCharCode(65 + place)}. ${option}`);
    this.answer.replaceChildren(
      element("p", {}, question.question),
      ...letters.map((line) => element("p", {}, line)),
      ...replies,
      element("p", {}, "Truth: ", element("b", {}, question.ground_truth ?? "not known")),
      element("p", { className: "status" }, about),
    );
  }
}
