// The result: images, what was asked and got, what can be done with them, and the history.

import * as api from "./api.js";
import { $, element, say } from "./dom.js";
import { labelOf } from "./state.js";

let shown = null; // the job
let index = 0;
let pinned = null; // {url, label}
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
let controls = { pose: [], expression: [] };

export function setUpResult(known) {
  controls = known;
  // On a small screen the result is out of sight while a control is dragged; a small one stays in view.
  new IntersectionObserver(([stage]) => {
    $("mini").hidden = stage.isIntersecting || !shown;
  }).observe($("stage"));
  $("compare").onclick = () => {
    pinned = pinned ? null : { url: images()[index].url, label: label(images()[index]) };
    showFigures();
  };
  $("copy-command").onclick = () => copy(shown.command, "The command is copied; it makes the same files from the same photo.");
  $("copy-python").onclick = () => copy(shown.python, "The Python is copied; it makes the same images from the same photo.");
}

async function copy(text, message) {
  try {
    await navigator.clipboard.writeText(text);
    say("status", message);
  } catch {
    say("status", text);
  }
}

const images = () => (shown?.files ?? []).filter((file) => file.kind === "image");
const sheets = () => (shown?.files ?? []).filter((file) => file.kind !== "image");
const label = (file) => file.asked || `seed ${file.seed}`;

export function showJob(job) {
  shown = job;
  index = 0;
  const preview = Boolean(job.request.preview);
  $("stage-empty").hidden = true;
  $("stage").classList.toggle("is-preview", preview);
  $("result-kind").hidden = !preview;
  $("result-kind").textContent = preview ? "preview" : "";
  $("actions").hidden = preview;
  $("copy-python").hidden = !job.python;
  $("notes").replaceChildren(...job.notes.map((note) => element("p", {}, `Note: ${note}.`)));
  showFigures();
  showVariants();
  showMeasured();
}

export function clear() {
  shown = null;
  pinned = null;
  showFigures();
  $("mini").hidden = true;
  $("mini-image").src = "data:,";
  $("variants").replaceChildren();
  $("notes").replaceChildren();
  for (const id of ["actions", "measured", "result-kind"]) $(id).hidden = true;
  $("stage-empty").hidden = false;
}

function figure(url, words, strip = false) {
  const image = element("img", { src: url, alt: `Generated image, ${words}` });
  return element(
    "figure",
    strip ? { class: "strip", tabIndex: 0 } : {}, // it scrolls, by keyboard too
    image,
    element("span", { class: "badge" }, "generated"),
    element("figcaption", {}, words),
  );
}

/** A loop that moves only while its button is pressed; otherwise its first image stands for it. */
function loopFigure(file) {
  const made = figure("data:,", "loop");
  const button = element("button", { type: "button" }, "Play the loop");
  const show = () => {
    made.querySelector("img").src = playing ? file.url : images()[0].url;
    button.setAttribute("aria-pressed", String(playing));
  };
  button.onclick = () => {
    playing = !playing;
    show();
  };
  show();
  const download = element("a", { class: "button", href: file.url, download: `facecrafter-${file.name}` }, "Download GIF");
  made.append(element("div", { class: "row" }, button, download));
  return made;
}

function showFigures() {
  const [file] = images().slice(index);
  const figures = [];
  if (pinned) figures.push(figure(pinned.url, `kept to compare: ${pinned.label}`));
  const whole = sheets();
  for (const one of whole) figures.push(one.kind === "loop" ? loopFigure(one) : figure(one.url, "strip", true));
  if (file && !whole.length) figures.push(figure(file.url, label(file)));
  $("figures").replaceChildren(...figures);
  $("compare").setAttribute("aria-pressed", String(Boolean(pinned)));
  $("compare").textContent = pinned ? "Stop comparing" : "Compare";
  const main = whole[0] ?? file;
  if (main) {
    $("mini-image").src = main.url;
    $("download").href = main.url;
    $("download").download = `facecrafter-${main.name}`;
  }
}

function showVariants() {
  const made = images();
  const buttons = made.map((file, place) => {
    const choose = () => {
      index = place;
      if (sheets().length) window.open(file.url, "_blank", "noopener");
      showFigures();
      showMeasured();
      [...$("variants").querySelectorAll("button")].forEach((one, other) =>
        one.setAttribute("aria-pressed", String(other === place)),
      );
    };
    const image = element("img", { src: file.url, alt: "" });
    const pressed = String(place === index && !sheets().length);
    const words = `Show ${label(file)}`;
    return element("li", {}, element("button", { type: "button", "aria-pressed": pressed, "aria-label": words, title: words, onclick: choose }, image));
  });
  $("variants").replaceChildren(...(made.length > 1 ? buttons : []));
}

function showMeasured() {
  const file = images()[index];
  const preview = shown.request.preview;
  $("measured").hidden = Boolean(preview || sheets().length || !file);
  if ($("measured").hidden) return;
  if (!file.got) {
    $("bars").replaceChildren(element("p", { class: "small" }, "No face was found in this image, so nothing could be read."));
    return;
  }
  const rows = [...poseRows(file.got), ...expressionRows(file.got), ...emotionRows(file.got)];
  rows.push(bar(`Likeness to the photo (${file.got.identity_by})`, null, file.got.identity, 0, 1, (value) => value.toFixed(2)));
  $("bars").replaceChildren(...rows);
}

function poseRows(got) {
  if (!shown.request.pose) return [];
  const relative = shown.request.start === "relative";
  return controls.pose.map(({ name, least, most }) =>
    bar(name[0].toUpperCase() + name.slice(1), relative ? null : (shown.request.pose[name] ?? 0), got.pose[name], least, most, (value) => `${Math.round(value) || 0}°`),
  );
}

function expressionRows(got) {
  const relative = shown.request.start === "relative";
  return Object.entries(shown.request.expression ?? {}).map(([name, value]) => {
    const control = controls.expression.find((one) => one.name === name || one.sides.includes(name));
    const sides = control.name === name ? control.sides : [name];
    const read = sides.reduce((sum, side) => sum + got.expression[side], 0) / sides.length;
    return bar(labelOf(control, name), relative ? null : value, read, 0, 1, (number) => number.toFixed(2));
  });
}

function emotionRows(got) {
  const { emotion, valence, arousal } = shown.request;
  const plain = (value) => value.toFixed(2);
  if (emotion && typeof emotion === "object") {
    return Object.entries(emotion).map(([name, share]) => bar(`${name} (read as ${got.emotion.label})`, share, got.emotion.probabilities[name] ?? 0, 0, 1, plain));
  }
  if (valence === undefined || valence === null) return [];
  return [
    bar(`valence (read as ${got.emotion.label})`, valence, got.emotion.valence, -1, 1, plain),
    bar("arousal", arousal, got.emotion.arousal, -1, 1, plain),
  ];
}

/** A row with a bar for what was got and a line for what was asked. */
function bar(words, asked, got, least, most, text) {
  const share = (value) => Math.min(100, Math.max(0, ((value - least) / (most - least)) * 100));
  const zero = share(Math.max(least, 0));
  const place = element("div", { class: "bar" });
  const measured = element("span", { class: "got" });
  measured.style.setProperty("--from", `${Math.min(zero, share(got))}%`);
  measured.style.setProperty("--long", `${Math.max(1, Math.abs(share(got) - zero))}%`);
  place.append(measured);
  if (least < 0) {
    const line = element("span", { class: "zero" });
    line.style.setProperty("--at", `${zero}%`);
    place.append(line);
  }
  if (asked !== null) {
    const line = element("span", { class: "asked" });
    line.style.setProperty("--at", `${share(asked)}%`);
    place.append(line);
  }
  const numbers = asked === null ? text(got) : `asked ${text(asked)}, got ${text(got)}`;
  return element("div", { class: "bar-row" },
    element("div", { class: "words" }, element("span", {}, words), element("span", { class: "number" }, numbers)), place);
}

// --- history ---------------------------------------------------------------------------------------------------------

export async function showHistory(open) {
  const jobs = await api.get("/v1/jobs");
  $("history-empty").hidden = jobs.length > 0;
  $("forget").hidden = jobs.length === 0;
  $("history").replaceChildren(...jobs.map((job) => entry(job, open)));
}

const WORDS = { queued: "waiting", running: "in work", failed: "failed", cancelled: "cancelled", interrupted: "interrupted" };

function entry(job, open) {
  const file = job.files.find((one) => one.kind === "strip") ?? job.files[0];
  const time = new Date(job.created * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const view = file ? element("img", { src: file.url, alt: "", loading: "lazy" }) : element("span", { class: "blank" }, WORDS[job.status] ?? "nothing");
  const name = `${time}, ${job.files.filter((one) => one.kind === "image").length} images`;
  const gone = async () => {
    await api.remove(`/v1/jobs/${job.id}`);
    await showHistory(open);
  };
  return element("li", {},
    element("button", { type: "button", class: "open", "aria-label": `Go back to ${name}`, title: job.message ?? name, onclick: () => open(job) }, view),
    element("span", { class: "name" }, file ? time : `${time} ${WORDS[job.status] ?? ""}`),
    element("button", { type: "button", class: "remove", "aria-label": `Remove ${name}`, onclick: gone }, "×"));
}
