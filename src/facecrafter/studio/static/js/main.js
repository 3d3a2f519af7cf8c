// The page: what was changed becomes a preview, then the full images; every failure becomes a sentence.

import * as api from "./api.js";
import { $, element, isOwnComputer, say } from "./dom.js";
import { setUpNumbers, show, take } from "./numbers.js";
import { sendAgain, setUpPhotos, showExamples, showOther, showPeople } from "./people.js";
import { clear, setUpResult, showHistory, showJob } from "./result.js";
import { keep, newSeed, restore, state, wish } from "./state.js";

const EXAMPLES = ["ada.png", "ben.png", "carl.png"];
const SPEEDS = {
  exact: "exact, slowest",
  interval: "interval",
  refresh: "refresh",
  distilled: "distilled, fastest",
};
let controls;
let model;
let turn = 0; // counts what was asked for; what comes back for an earlier one is not shown
let running = null; // the id of the job in work
let aside = false; // an earlier result was opened since, and stays in view

async function start() {
  const own = isOwnComputer(location.hostname);
  if (own) say("where", "Photos stay on this computer.");
  [{ models: [model] }, controls] = await Promise.all([api.get("/v1/models"), api.get("/v1/controls")]);
  const kept = model.private ? "nothing is kept" : `results are kept on ${own ? "this computer" : "the server"}`;
  say("model", `${model.name}, ${model.size} px, on ${model.device}; ${kept}`);
  setUpPhotos(() => changed(), (what, reading) => (what === "landmarks" ? changed() : take(what, reading)));
  setUpNumbers(controls, changed);
  setUpResult(controls);
  setUpMaking();
  setUpSweep();
  showExamples(EXAMPLES);
  await showHistory(open);
  if (state.job) await resume(state.job);
  showReady();
}

function setUpMaking() {
  for (const name of model.speeds) {
    const usual = name === model.defaults.speed ? " (usual)" : "";
    $("speed").append(element("option", { value: name }, `${SPEEDS[name] ?? name}${usual}`));
  }
  showMaking();
  const bind = (id, name, read) => {
    $(id).onchange = (event) => {
      state[name] = read(event.target);
      keep();
      showReady();
    };
  };
  bind("variants-count", "n", (input) => Number(input.value));
  bind("best-of", "bestOf", (input) => Number(input.value));
  bind("speed", "speed", (input) => input.value);
  bind("auto", "auto", (input) => input.checked);
  bind("seed", "seed", (input) => Math.min(model.limits ? 2 ** 53 - 100 : 0, Math.max(0, Math.floor(Number(input.value) || 0))));
  $("consent").onchange = (event) => {
    state.consent = event.target.checked;
    keep();
    showReady();
    changed();
  };
  $("lock").onclick = () => {
    state.locked = !state.locked;
    keep();
    showMaking();
  };
  $("make").onclick = () => {
    if (!state.locked) newSeed();
    keep();
    showMaking();
    full();
  };
  $("cancel").onclick = () => stop("Cancelled.");
  $("forget").onclick = async () => {
    await api.remove("/v1/jobs");
    clear();
    await showHistory(open);
  };
}

function showMaking() {
  $("variants-count").value = state.n;
  $("best-of").value = state.bestOf;
  $("speed").value = state.speed || model.defaults.speed;
  $("seed").value = state.seed;
  $("lock").setAttribute("aria-pressed", String(state.locked));
  $("lock").textContent = state.locked ? "Locked" : "New each time";
  $("auto").checked = state.auto;
  $("consent").checked = state.consent;
}

/** Why nothing can be made yet; empty where it can. */
function lacking() {
  if (!state.people.length) return "Add a photo of a person, or choose a generated one.";
  if (!state.consent && !state.people.every((one) => one.example)) return "Say that the person in the photo agreed.";
  return "";
}

function showReady() {
  const text = lacking();
  $("make").disabled = $("sweep").disabled = Boolean(text);
  if (text && !running) say("status", text);
}

/** Something was let go of: a preview, then the full images. */
async function changed() {
  showReady();
  if (!state.auto || lacking()) return;
  const own = await ask({ ...wish(controls), ...model.preview, seed: state.seed, n: 1, preview: true });
  if (own) await full(); // not where an earlier result was opened meanwhile, whose settings are shown
}

function full() {
  return ask({ ...wish(controls), ...making(), n: state.n });
}

/** How full images are made. */
function making() {
  const speed = state.speed && state.speed !== model.defaults.speed ? { speed: state.speed } : {};
  const best = state.bestOf > 1 ? { best_of: state.bestOf } : {};
  return { ...speed, ...best, seed: state.seed };
}

/** Make what a request asks for and show it. True where nothing else was asked for meanwhile, and it was made. */
async function ask(request) {
  const own = ++turn;
  say("problem", "");
  await stop();
  try {
    const job = await post(request);
    if (own !== turn) {
      api.remove(`/v1/jobs/${job.id}`).catch(() => {});
      return false;
    }
    return await follow(job, own);
  } catch (error) {
    if (own === turn) failed(error);
    return false;
  }
}

/** Post a request; a server that was started again gets the photos again, and a busy one is asked again. */
async function post(request) {
  const busy = (seconds) => say("status", `The server is busy; asking again in ${seconds} s.`);
  const once = () => api.patient(() => api.post("/v1/images", request), busy);
  try {
    return await once();
  } catch (error) {
    if (error.kind !== "unknown_photo") throw error;
    const photos = [...request.identity, request.landmarks_from].filter(Boolean);
    if (!(await sendAgain(photos))) throw new Error("The server was started again and has forgotten the photo; add it once more.");
    return once();
  }
}

/** Watch a job until it is over, and show it. */
async function follow(job, own) {
  const preview = Boolean(job.request.preview);
  running = job.id;
  if (!preview) {
    state.job = job.id;
    keep();
  }
  working(job);
  try {
    while (!api.isOver(job) && own === turn) job = await watched(job, own);
  } finally {
    if (own === turn) {
      running = null;
      $("working").hidden = true;
    }
  }
  if (own !== turn) return false;
  return finished(job, preview);
}

/** The job when it is over, or after the server was away. */
async function watched(job, own) {
  try {
    return await api.watch(job.id, (now) => own === turn && working(now));
  } catch (error) {
    if (!(error instanceof api.Away) || own !== turn) throw error;
    say("status", "The server does not answer. Waiting for it …");
    await api.back();
    return await api.get(`/v1/jobs/${job.id}`);
  }
}

async function finished(job, preview) {
  const away = aside;
  aside = false;
  if (job.status === "done") {
    if (!away) showJob(job);
    const seconds = `Made in ${job.seconds.toFixed(1)} s`;
    say("status", preview ? (away ? "" : "Preview.") : `${seconds}${away ? "; it is in the history" : ""}.`);
  } else if (job.status === "cancelled") {
    say("status", "Cancelled.");
  } else {
    say("status", "");
    say("problem", sentence(job.message));
  }
  if (!preview) await showHistory(open);
  return job.status === "done" && !away;
}

function working(job) {
  $("working").hidden = false;
  $("progress").value = job.progress;
  const kind = job.request.preview ? "Preview" : "Full images";
  const waits = job.ahead ? `${kind}: ${job.ahead} before it` : `${kind} …`;
  if ($("status").textContent !== waits) say("status", waits);
}

/** Cancel what is in work. */
async function stop(text) {
  const id = running;
  running = null;
  aside = false;
  $("working").hidden = true;
  if (text) {
    turn += 1;
    say("status", text);
  }
  if (id) await api.remove(`/v1/jobs/${id}`).catch(() => {});
  if (!id || !text) return;
  await api.watch(id, () => {}).catch(() => {}); // it ends at its next step
  await showHistory(open);
}

const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".") : "");

function failed(error) {
  running = null;
  $("working").hidden = true;
  say("status", "");
  say("problem", sentence(error.message));
  if (error instanceof api.Away) {
    api.back().then(() => {
      say("problem", "");
      say("status", "The server answers again.");
    });
  }
}

/** After a reload: go on with the job that was in work, or show the last one. */
async function resume(id) {
  const own = ++turn;
  try {
    const job = await api.get(`/v1/jobs/${id}`);
    if (api.isOver(job)) await finished(job, false);
    else await follow(job, own);
  } catch (error) {
    if (error.status !== 404) failed(error);
  }
}

/** Go back to an earlier result, or to a job that is not over. What is in work goes on. */
async function open({ id }) {
  let job;
  try {
    job = await api.get(`/v1/jobs/${id}`);
  } catch (error) {
    say("problem", sentence(error.message));
    return;
  }
  say("problem", "");
  aside = running !== id;
  restore(job.request, job.photos, controls.expression);
  state.job = job.id;
  keep();
  showPeople();
  showOther();
  show();
  showMaking();
  showSweep(job.request);
  showReady();
  $("result-title").scrollIntoView({ block: "nearest" });
  if (!api.isOver(job)) {
    aside = false;
    if (running !== id) await follow(job, ++turn).catch(failed);
  } else if (job.status === "done") {
    showJob(job);
    say("status", "An earlier result; its settings are in the controls.");
  } else {
    say("problem", sentence(job.message ?? job.status));
  }
}

function setUpSweep() {
  const every = [...controls.pose, ...controls.expression.filter((one) => one.live)];
  const option = (one) => element("option", { value: one.name }, one.group === "Pose" ? one.name : one.words);
  $("sweep-name").append(...every.map(option));
  $("sweep-second").append(...every.map(option));
  $("sweep-name").onchange = (event) => {
    const { least, most, group } = every.find((one) => one.name === event.target.value);
    $("sweep-from").value = group === "Pose" ? Math.max(least, -30) : 0;
    $("sweep-to").value = group === "Pose" ? Math.min(most, 30) : 0.8;
  };
  $("sweep").onclick = () => {
    const sweep = [`${$("sweep-name").value}=${$("sweep-from").value}:${$("sweep-to").value}:${$("sweep-count").value}`];
    const second = every.find((one) => one.name === $("sweep-second").value);
    if (second) {
      const ends = second.group === "Pose" ? [-20, 20] : [0, 0.8];
      sweep.unshift(`${second.name}=${ends[0]}:${ends[1]}:3`);
    }
    ask({ ...wish(controls), ...making(), sweep, loop: $("loop").checked && sweep.length === 1 });
  };
}

/** Put an earlier strip back into its fields; of a second control they have the name alone. */
function showSweep({ sweep = [], loop = false }) {
  if (!sweep.length) return;
  const [name, numbers] = sweep.at(-1).split("=");
  $("sweep-name").value = name.trim();
  for (const [index, number] of numbers.split(":").entries()) {
    $(["sweep-from", "sweep-to", "sweep-count"][index]).value = number.trim();
  }
  $("sweep-second").value = sweep.length > 1 ? sweep[0].split("=")[0].trim() : "";
  if (sweep.length === 1) $("loop").checked = loop; // a grid has none
}

// What fails where nothing waits for it, say a click on Remove, is a sentence too.
addEventListener("unhandledrejection", (event) => {
  if (!event.reason?.kind) return;
  event.preventDefault();
  failed(event.reason);
});

start().catch((error) => say("problem", sentence(error.message)));
