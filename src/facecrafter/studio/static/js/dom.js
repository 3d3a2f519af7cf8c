// Elements, and the two kinds of controls that the page is made of.

export const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function say(id, text) {
  const place = $(id);
  place.textContent = text || "";
  if (place.getAttribute("role") === "alert") place.hidden = !text;
}

/** A labelled slider with its number and a reset button. */
export class Slider {
  constructor({ id, label, hint, least, most, step, usual = 0, unit = "", digits = 2, input, change }) {
    this.usual = usual;
    this.unit = unit;
    this.digits = digits;
    this.range = element("input", { type: "range", id, min: least, max: most, step, value: usual });
    this.output = element("output", { htmlFor: id });
    this.reset = element("button", {
      type: "button",
      class: "reset",
      "aria-label": `Reset ${label}`,
      title: "Reset",
      onclick: () => {
        this.set(usual);
        input(usual);
        change();
        this.range.focus();
      },
    }, "↺");
    const words = element("label", { htmlFor: id }, label);
    if (hint) words.append(element("span", { class: "follow" }, hint));
    this.element = element("div", { class: "slider" }, words, this.output, this.reset, this.range);
    this.range.addEventListener("input", () => {
      this.show();
      input(Number(this.range.value));
    });
    this.range.addEventListener("change", change);
    this.show();
  }

  set(value) {
    this.range.value = value;
    this.show();
  }

  show() {
    const value = Number(this.range.value);
    const text = `${value.toFixed(this.digits)}${this.unit}`;
    this.output.textContent = text;
    this.range.setAttribute("aria-valuetext", text);
    this.reset.disabled = value === this.usual;
  }
}

/** Call `move` with the place in a canvas, from 0 to 1, while it is dragged, and `end` when it is let go. */
export function draggable(canvas, move, end) {
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  };
  let from = null;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    from = place(event);
    move(from, from, true);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (from) move(place(event), from, false);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => {
      if (from) end();
      from = null;
    });
  }
}

/** Whether an address is of the visitor's own computer. */
export const isOwnComputer = (hostname) => ["localhost", "127.0.0.1", "[::1]"].includes(hostname);

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export const clamp = (value, least, most) => Math.min(most, Math.max(least, value));
