// Photos: those of the person, and a second one to take something from.

import * as api from "./api.js";
import { $, element, say } from "./dom.js";
import { files, keep, state } from "./state.js";

let changed = () => {};
let took = () => {};

export function setUpPhotos(onPeople, onTaken) {
  changed = onPeople;
  took = onTaken;
  dropping("person-drop", "person-file", addPeople);
  dropping("other-drop", "other-file", (chosen) => addOther(chosen[0]));
  $("take-pose").onclick = () => took("pose", state.other.reading);
  $("take-expression").onclick = () => took("expression", state.other.reading);
  $("take-emotion").onclick = () => took("emotion", state.other.reading);
  $("exact-landmarks").onchange = (event) => {
    state.exact = event.target.checked;
    took("landmarks", state.other?.reading);
  };
  // A photo that misses its place would otherwise be opened in place of the page.
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
  showPeople();
  showOther();
}

function dropping(zone, input, take) {
  const place = $(zone);
  $(input).onchange = (event) => {
    const chosen = [...event.target.files];
    event.target.value = "";
    if (chosen.length) take(chosen);
  };
  for (const name of ["dragenter", "dragover"]) {
    place.addEventListener(name, (event) => {
      event.preventDefault();
      place.classList.add("over");
    });
  }
  for (const name of ["dragleave", "drop"]) {
    place.addEventListener(name, () => place.classList.remove("over"));
  }
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    const dropped = [...event.dataTransfer.files];
    if (dropped.length) take(dropped);
  });
}

/** Send a photo, and remember its file. */
async function send(file) {
  const busy = (seconds) => say("status", `The server is busy; sending the photo again in ${seconds} s.`);
  const found = await api.patient(() => api.sendPhoto(file), busy);
  files.set(found.photo, file);
  return found;
}

/** Send photos again that a server which was started again has forgotten. True where all could be. */
export async function sendAgain(photos) {
  for (const photo of photos) {
    if (!files.has(photo)) return false;
    await send(files.get(photo));
  }
  return true;
}

export async function addPeople(chosen, example = false) {
  say("person-problem", "");
  say("person-note", "Reading the photo …");
  if (!example && state.people.every((one) => one.example)) {
    state.consent = $("consent").checked = false; // it was given for photos that are gone
  }
  const problems = [];
  const notes = [];
  for (const file of chosen) {
    try {
      const found = await send(file);
      if (!state.people.some((one) => one.photo === found.photo)) {
        state.people = state.people.filter((one) => one.example === example);
        if (example) state.people = [];
        state.people.push({ photo: found.photo, name: found.name, example });
      }
      if (example && !state.examples.includes(found.photo)) state.examples.push(found.photo);
      notes.push(...found.notes.map((note) => `${found.name}: ${note}`));
      const used = found.chosen === 1 ? "the largest" : "the nearest to the centre";
      if (found.faces.length > 1) notes.push(`${found.name} shows ${found.faces.length} faces; ${used} is used.`);
    } catch (error) {
      problems.push(error.message);
    }
  }
  say("person-problem", problems.join(" "));
  say("person-note", notes.join(" "));
  showPeople();
  keep();
  changed();
}

async function addOther(file) {
  say("other-problem", "");
  try {
    const found = await send(file);
    state.other = { photo: found.photo, name: found.name, reading: found.faces[found.chosen - 1] };
  } catch (error) {
    say("other-problem", error.message);
  }
  showOther();
  keep();
}

function thumb(one, gone) {
  const image = element("img", { src: `/v1/photos/${one.photo}/face.png`, alt: `Face in ${one.name}` });
  image.onerror = () => image.replaceWith(element("span", { class: "blank" }, one.name));
  return element(
    "li",
    {},
    image,
    element("span", { class: "name", title: one.name }, one.name),
    element("button", { type: "button", class: "remove", "aria-label": `Remove ${one.name}`, onclick: gone }, "×"),
  );
}

export function showPeople() {
  $("people").replaceChildren(
    ...state.people.map((one) =>
      thumb(one, () => {
        state.people = state.people.filter((other) => other !== one);
        showPeople();
        keep();
        changed();
      }),
    ),
  );
}

export function showOther() {
  $("other-body").hidden = !state.other;
  $("exact-landmarks").checked = state.exact;
  for (const name of ["pose", "expression", "emotion"]) $(`take-${name}`).disabled = !state.other?.reading;
  $("other").replaceChildren(
    ...(state.other
      ? [
          thumb(state.other, () => {
            state.other = null;
            state.exact = false;
            showOther();
            keep();
            changed();
          }),
        ]
      : []),
  );
}

/** Offer the examples, which are generated people. */
export function showExamples(names) {
  for (const name of names) {
    const url = `/static/studio/examples/${name}`;
    const choose = async () => {
      const content = await (await fetch(url)).blob();
      await addPeople([new File([content], name, { type: "image/png" })], true);
    };
    const image = element("img", { src: url, alt: "" });
    $("examples").append(
      element("button", { type: "button", "aria-label": `Use the generated person ${name}`, onclick: choose }, image),
    );
  }
}
