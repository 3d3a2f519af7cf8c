// Pose, emotion and expression: sliders, the ball and the pad, all showing one state.

import { drawBall, dragBall } from "./ball.js";
import { $, Slider, element } from "./dom.js";
import { drawPad, dragPad } from "./pad.js";
import { keep, labelOf, state } from "./state.js";

// Those that the model follows best come first.
const GROUPS = ["Mouth corners", "Jaw", "Brows", "Eyes", "Lips", "Gaze"];
const HINTS = [[0.7, "followed"], [0.4, "followed in part"], [-1, "hardly followed"]];
const sliders = { pose: {}, emotion: {}, expression: [] };
let all = { pose: [], expression: [], presets: {}, emotions: [] };
let done = () => {};
let built = null; // what the numbers started from when the sliders were made

export function setUpNumbers(controls, letGo) {
  all = controls;
  done = () => {
    keep();
    letGo();
  };
  setUpPose();
  setUpEmotion();
  setUpExpression();
  show();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
}

/** Show the state in every control. */
export function show() {
  for (const [name, slider] of Object.entries(sliders.pose)) slider.set(state.pose[name]);
  drawBall(state.pose, state.expression);
  showEmotion();
  if (state.start === built) showExpression();
  else buildGroups();
}

function setUpPose() {
  for (const { name, least, most, words } of all.pose) {
    const slider = new Slider({
      id: `pose-${name}`,
      label: `${name[0].toUpperCase()}${name.slice(1)}`,
      hint: words,
      least,
      most,
      step: 1,
      unit: "°",
      digits: 0,
      input: (value) => {
        state.pose[name] = value;
        drawBall(state.pose, state.expression);
      },
      change: () => done(),
    });
    sliders.pose[name] = slider;
    $("pose-sliders").append(slider.element);
  }
  dragBall(
    () => state.pose,
    (pose) => {
      state.pose = pose;
      show();
    },
    () => done(),
  );
  $("pose-reset").onclick = () => {
    state.pose = { yaw: 0, pitch: 0, roll: 0 };
    show();
    done();
  };
}

function setUpEmotion() {
  for (const { name } of all.emotions) {
    const choose = () => {
      const { emotion } = state;
      const again = emotion.kind === "word" && emotion.name === name;
      Object.assign(emotion, { kind: again ? "none" : "word", name: again ? "" : name });
      if (!again && emotion.strength === 0) emotion.strength = 0.8;
      showEmotion();
      done();
    };
    $("chips").append(element("button", { type: "button", "aria-pressed": "false", onclick: choose, value: name }, name));
  }
  const add = (name, label, least, most, usual, input) => {
    const slider = new Slider({
      id: `emotion-${name}`, label, least, most, step: 0.01, usual, change: () => done(), input: (value) => {
        input(value);
        showEmotion();
      },
    });
    sliders.emotion[name] = slider;
    $("emotion-sliders").append(slider.element);
  };
  const toPoint = (values) => Object.assign(state.emotion, { kind: "point", name: "" }, values);
  add("strength", "Strength of the word", 0, 1, 0.8, (strength) => Object.assign(state.emotion, { strength }));
  add("valence", "Valence: unpleasant to pleasant", -1, 1, 0, (valence) => toPoint({ valence }));
  add("arousal", "Arousal: calm to excited", -1, 1, 0, (arousal) => toPoint({ arousal }));
  dragPad(
    (point) => {
      toPoint(point);
      showEmotion();
    },
    () => done(),
  );
  $("emotion-reset").onclick = () => {
    Object.assign(state.emotion, { kind: "none", name: "", strength: 0.8, valence: 0, arousal: 0 });
    showEmotion();
    done();
  };
}

function showEmotion() {
  const { kind, name, strength, valence, arousal } = state.emotion;
  for (const chip of $("chips").children) {
    chip.setAttribute("aria-pressed", String(kind === "word" && chip.value === name));
  }
  sliders.emotion.strength.set(strength);
  sliders.emotion.strength.element.hidden = kind !== "word" || name === "neutral";
  const centre = all.emotions.find((one) => one.name === name);
  const share = name === "neutral" ? 1 : strength;
  const word = kind === "word" && centre ? { valence: centre.valence * share, arousal: centre.arousal * share } : null;
  const point = kind === "point" ? { valence, arousal } : word;
  sliders.emotion.valence.set(point?.valence ?? 0);
  sliders.emotion.arousal.set(point?.arousal ?? 0);
  drawPad(all.emotions, point, kind === "word" ? name : "");
}

function setUpExpression() {
  for (const name of Object.keys(all.presets)) $("preset").append(element("option", { value: name }, name));
  $("preset").onchange = (event) => {
    const numbers = all.presets[event.target.value];
    if (numbers) applyPreset(numbers);
  };
  $("search").oninput = filter;
  $("all-controls").onchange = filter;
  $("linked").checked = state.linked;
  $("linked").onchange = (event) => {
    state.linked = event.target.checked;
    buildGroups();
    keep();
  };
  $("start").value = state.start;
  $("start").onchange = (event) => {
    state.start = event.target.value;
    if (state.start !== "relative") {
      // Only a change can be negative; no slider could bring such a number back.
      state.expression = Object.fromEntries(Object.entries(state.expression).filter(([, value]) => value > 0));
    }
    show();
    done();
  };
  $("expression-reset").onclick = () => {
    state.expression = {};
    $("preset").value = "";
    show();
    done();
  };
  buildGroups();
}

function applyPreset(numbers) {
  const { yaw, pitch, roll, ...expression } = numbers;
  if ([yaw, pitch, roll].some((angle) => angle !== undefined)) {
    state.pose = { yaw: yaw ?? 0, pitch: pitch ?? 0, roll: roll ?? 0 };
  }
  state.expression = expression;
  show();
  done();
}

/** Take numbers from a reading of another photo. */
export function take(what, reading) {
  if (what === "pose") {
    for (const { name, least, most } of all.pose) {
      state.pose[name] = Math.round(Math.min(most, Math.max(least, reading.pose[name])));
    }
  } else if (what === "expression") {
    const live = new Set(all.expression.filter((one) => one.live).flatMap((one) => one.sides));
    const read = Object.entries(reading.expression).filter(([name, value]) => live.has(name) && value >= 0.05);
    state.expression = Object.fromEntries(read.map(([name, value]) => [name, Math.round(value * 100) / 100]));
  } else if (what === "emotion") {
    const { valence, arousal } = reading.emotion;
    Object.assign(state.emotion, {
      kind: "point", name: "", valence: Math.round(valence * 100) / 100, arousal: Math.round(arousal * 100) / 100,
    });
  }
  show();
  done();
}

/** The sliders, one for both sides where they are linked. */
function buildGroups() {
  built = state.start;
  sliders.expression = [];
  const open = new Set([...$("groups").querySelectorAll("details[open]")].map((one) => one.dataset.group));
  const groups = new Map();
  const best = [...all.expression].sort((one, other) => (other.correlation ?? -1) - (one.correlation ?? -1));
  for (const control of best) {
    const own = state.linked || control.sides.length === 1 ? [control.sides] : control.sides.map((side) => [side]);
    for (const sides of own) {
      const name = sides.length > 1 ? control.name : sides[0];
      const which = name.startsWith(control.name) ? name.slice(control.name.length).toLowerCase() : "";
      const slider = expressionSlider(control, name, sides);
      if (!groups.has(control.group)) groups.set(control.group, []);
      groups.get(control.group).push(slider.element);
      sliders.expression.push({ slider, sides, control, words: `${name} ${control.words} ${which}`.toLowerCase() });
    }
  }
  const place = (group) => (GROUPS.indexOf(group) + GROUPS.length + 1) % (GROUPS.length + 1);
  const sorted = [...groups].sort(([one], [other]) => place(one) - place(other));
  const made = sorted.map(([group, elements], index) => {
    const used = element("span", { class: "used" });
    const list = element("div", { class: "sliders" }, ...elements);
    const box = element("details", { open: open.size ? open.has(group) : index < 3 }, element("summary", {}, group, used), list);
    box.dataset.group = group;
    return box;
  });
  $("groups").replaceChildren(...made);
  filter();
  showExpression();
}

function expressionSlider(control, name, sides) {
  const hint = control.correlation === null ? "" : HINTS.find(([least]) => control.correlation >= least)[1];
  return new Slider({
    id: `expression-${name}`,
    label: labelOf(control, name),
    hint,
    least: state.start === "relative" ? -1 : 0,
    most: 1,
    step: 0.01,
    input: (value) => {
      for (const side of sides) {
        if (value) state.expression[side] = value;
        else delete state.expression[side];
      }
      drawBall(state.pose, state.expression);
      showUsed();
    },
    change: () => done(),
  });
}

function showExpression() {
  for (const { slider, sides } of sliders.expression) {
    slider.set(Math.max(...sides.map((side) => state.expression[side] ?? 0)));
  }
  $("start").value = state.start;
  $("linked").checked = state.linked;
  drawBall(state.pose, state.expression);
  showUsed();
}

function showUsed() {
  for (const box of $("groups").children) {
    const used = sliders.expression.filter(
      ({ control, sides }) => control.group === box.dataset.group && sides.some((side) => state.expression[side]),
    );
    box.querySelector(".used").textContent = used.length ? `${used.length} in use` : "";
  }
}

/** Hide the sliders that a search does not name, and those that photos hardly have. */
function filter() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const every = $("all-controls").checked;
  let found = 0;
  for (const { slider, control, words: own, sides } of sliders.expression) {
    const used = sides.some((side) => state.expression[side]);
    const wanted = words.every((word) => own.includes(word)) && (every || control.live || used || words.length > 0);
    slider.element.hidden = !wanted;
    found += wanted;
  }
  for (const box of $("groups").children) {
    const any = [...box.querySelectorAll(".slider")].some((one) => !one.hidden);
    box.hidden = !any;
    if (words.length && any) box.open = true;
  }
  $("no-match").hidden = found > 0;
}
