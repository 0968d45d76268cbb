// Elements without markup: text of the data set only ever becomes a text node.

/** An element; `properties` are set on it (`on...` functions too), `children` are elements or plain text. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** A check box with its label; `changed(checked)` is called on a change. */
export function check(text, checked, changed) {
  const box = element("input", { type: "checkbox", checked, onchange: () => changed(box.checked) });
  return element("label", {}, box, ` ${text}`);
}

/** A select with its label; `choices` are [value, text]; `changed(value)` is called on a change. */
export function choice(text, choices, changed) {
  const list = element(
    "select",
    { onchange: () => changed(list.value) },
    ...choices.map(([value, shown]) => element("option", { value }, shown)),
  );
  return element("label", {}, `${text} `, list);
}

/** A slider with its label and its value; `changed(number)` is called while it moves. */
export function slider(text, name, [low, high, step, value], unit, changed) {
  const shown = element("output", {}, `${value}${unit}`);
  const input = element("input", { type: "range", name, min: low, max: high, step, value });
  input.oninput = () => {
    shown.textContent = `${input.value}${unit}`;
    changed(Number(input.value));
  };
  return element("label", {}, `${text} `, input, " ", shown);
}
