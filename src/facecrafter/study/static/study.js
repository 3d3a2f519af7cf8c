// The participant's page. The server knows where everybody is: this page shows that, sends one answer at a time, keeps it
// in the browser until the server has it, and asks again after a reload, a way back, or another tab's answer.

const byId = (id) => document.getElementById(id);
const LANGUAGE = "facecrafter-study-language";
const SETTLE_MILLISECONDS = 300; // after a new question or an undo, in which the second click of a double click is none
const LONGEST_WAIT = 15_000;
const ANSWER_MILLISECONDS = 20_000; // a request that is not answered by then is lost: a phone in a tunnel gets no error
const TOUCH = matchMedia("(hover: none)"); // as in study.css: no keys are named there

let about = null;
let now = null;
let placed = []; // of a ranking: positions, the best first
let shownAt = 0;
let ready = false;
let sending = false;
let undoneAt = -Infinity;

// What the study itself says of a request. Anything else comes from something in between, and passes.
const REFUSED = new Set(["unknown", "stale", "invalid", "forbidden"]);
const BLOCKED = new Set(["other_origin", "unknown_host"]); // a proxy that is set up wrongly: to be read, not waited for

class Refusal extends Error {
  constructor(status, content) {
    super(content?.message ?? "");
    this.code = status < 500 ? content?.error : undefined;
  }
}

const isWithdrawn = (error) => error.code === "unknown";

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  const lost = new AbortController();
  const timer = setTimeout(() => lost.abort(), ANSWER_MILLISECONDS);
  try {
    const response = await fetch(path, { cache: "no-store", credentials: "same-origin", signal: lost.signal, ...options });
    const content = await response.json().catch((error) => { if (response.ok) throw error; });
    if (!response.ok) throw new Refusal(response.status, content);
    return content;
  } finally {
    clearTimeout(timer);
  }
}

const filled = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
const words = (name, values = {}) => filled(about.words[name], values);

// --- sections ---------------------------------------------------------------------------------------------------------

function show(section, title) {
  for (const name of ["consent", "trial", "end"]) byId(name).hidden = name !== section;
  byId("title").hidden = section === "consent";
  document.title = `${byId(title).textContent} – ${about.title}`;
  byId(title).focus({ preventScroll: true });
  scrollTo(0, 0);
}

function complain(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

function showConsent() {
  byId("consent-title").textContent = about.title;
  byId("introduction").textContent = about.introduction;
  byId("consent-text").textContent = about.consent;
  byId("contact").textContent = about.contact;
  byId("agree").textContent = words("agree");
  byId("agree").disabled = about.needs_link;
  byId("code-part").hidden = !about.needs_code;
  document.querySelector("label[for=code]").textContent = words("code");
  if (about.needs_link) complain(words("needs_link"));
  byId("bottom").hidden = byId("progress").hidden = true;
  show("consent", "consent-title");
}

function showNow() {
  byId("progress").hidden = byId("bottom").hidden = false;
  byId("bar").max = now.total;
  byId("bar").value = now.done;
  byId("count").textContent = words("progress", { done: now.done, total: now.total });
  byId("undo").textContent = words("undo");
  byId("undo").disabled = !now.last;
  byId("later").textContent = words(now.trial ? "later" : "later_done");
  byId("link").href = now.link;
  byId("link").textContent = new URL(now.link, location.href).href;
  byId("withdraw").textContent = words("withdraw");
  if (now.trial) return showTrial();
  byId("end-title").textContent = words("done");
  byId("completion").hidden = !now.completion_code;
  byId("completion").textContent = words("completion", { code: now.completion_code });
  show("end", "end-title");
}

function showWithdrawn() {
  keep(null);
  now = null;
  byId("bottom").hidden = byId("progress").hidden = byId("languages").hidden = true;
  byId("completion").hidden = true;
  byId("end-title").textContent = words("withdrawn");
  show("end", "end-title");
}

// --- a trial ----------------------------------------------------------------------------------------------------------

function image(source, alt) {
  const made = new Image();
  made.src = source;
  made.alt = alt;
  return made;
}

function optionOf(images, position) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const frame = document.createElement("span");
  const label = document.createElement("span");
  const key = document.createElement("kbd");
  button.type = "button";
  button.className = "option waiting";
  button.disabled = true;
  frame.className = "images";
  frame.append(...images.map((source) => image(source, "")));
  key.textContent = position + 1;
  key.ariaHidden = "true";
  label.append(words("option", { number: position + 1 }), " ", ...(position < 9 ? [key] : []));
  button.append(frame, label);
  button.addEventListener("click", (event) => { if (event.detail < 2) choose(position); });
  item.append(button);
  return item;
}

function referenceOf({ role, image: source }) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = words(role);
  figure.append(image(source, words(role)), caption);
  return figure;
}

async function showTrial() {
  const trial = now.trial;
  placed = [];
  ready = false;
  byId("trial").classList.remove("settled", "pointed");
  byId("question").textContent = about.questions[trial.question];
  byId("practice").hidden = !trial.practice;
  byId("practice").textContent = words("practice");
  byId("check").hidden = trial.instructed === null;
  byId("check").textContent = words(about.ranking ? "instructed_first" : "instructed", { number: trial.instructed + 1 });
  byId("help").textContent = words(about.ranking ? "ranking_help" : TOUCH.matches ? "tap_help" : "choose_help");
  byId("save").hidden = !about.ranking;
  byId("save").textContent = words("save");
  byId("references").replaceChildren(...trial.references.map(referenceOf));
  byId("options").classList.toggle("groups", trial.options.some((images) => images.length > 1));
  byId("options").replaceChildren(...trial.options.map(optionOf));
  showPlaces();
  show("trial", "question");
  const images = [...byId("trial").querySelectorAll("img")];
  const loaded = await Promise.allSettled(images.map((one) => one.decode()));
  if (now.trial !== trial) return;
  if (loaded.some((one) => one.status === "rejected")) return complain(words("problem"));
  complain("");
  for (const button of buttons()) {
    button.classList.remove("waiting");
    button.disabled = false;
  }
  shownAt = performance.now();
  ready = true;
  setTimeout(() => byId("trial").classList.toggle("settled", now?.trial === trial), SETTLE_MILLISECONDS);
  for (const source of now.upcoming) image(source, "");
}

const buttons = () => [...byId("options").querySelectorAll("button")];

function choose(position) {
  if (!ready || sending || position >= now.trial.options.length) return;
  if (!byId("trial").classList.contains("settled")) return;
  if (!about.ranking) return send([position]);
  placed = placed.includes(position) ? placed.filter((one) => one !== position) : [...placed, position];
  showPlaces();
}

function showPlaces() {
  if (!about.ranking) return;
  buttons().forEach((button, position) => {
    const place = placed.indexOf(position);
    button.ariaPressed = String(place >= 0);
    button.querySelector(".place")?.remove();
    if (place < 0) return;
    const badge = document.createElement("span");
    badge.className = "place";
    badge.textContent = words("rank", { number: place + 1 });
    button.lastChild.append(" ", badge);
  });
  byId("save").disabled = placed.length < now.trial.options.length;
}

function send(positions) {
  const milliseconds = Math.min(86_400_000, Math.round(performance.now() - shownAt));
  const answer = { trial: now.trial.trial, attempt: now.trial.attempt, positions, milliseconds };
  for (const button of buttons()) button.disabled = true;
  if (!about.ranking) buttons()[positions[0]].classList.add("sent");
  keep(answer);
  return deliver(answer);
}

// --- delivery ---------------------------------------------------------------------------------------------------------

// Several studies may be served to one browser from one address, and several people take part in it: an answer that is
// kept is one participant's.
const pending = () => `facecrafter-study-pending-${about.visitor}`;

function store(name, value) {
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, value);
  } catch { /* without storage it lives as long as the page */ }
}

function stored(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

const keep = (answer) => store(pending(), answer && JSON.stringify(answer));

function kept() {
  try {
    return JSON.parse(stored(pending()));
  } catch {
    return null;
  }
}

function pause(milliseconds) {
  return new Promise((resolve) => {
    const done = () => { clearTimeout(timer); removeEventListener("online", done); resolve(); };
    const timer = setTimeout(done, milliseconds);
    addEventListener("online", done);
  });
}

// Asks until the server has answered: what is lost on the way is sent again, and counts once.
async function persist(path, body, message = "retrying") {
  for (let wait = 500; ; wait = Math.min(wait * 2, LONGEST_WAIT)) {
    try {
      const answered = await ask(path, body);
      complain("");
      return answered;
    } catch (error) {
      if (REFUSED.has(error.code) || BLOCKED.has(error.code)) throw error;
      complain(words(message));
      await pause(wait);
    }
  }
}

// Where the participant is; null for somebody whose answers were deleted, here or in another tab.
async function current() {
  try {
    return await persist("/api/state");
  } catch (error) {
    if (isWithdrawn(error)) return null;
    throw error;
  }
}

// Sends what changes something, and shows where the participant is then; gives whether it was taken. What is refused was
// undone, dealt again or deleted in the meantime, in another tab or after a pause.
async function change(path, body, message) {
  sending = true;
  byId("undo").disabled = true;
  let saved = null;
  try {
    saved = await persist(path, body, message).catch((error) => {
      if (!REFUSED.has(error.code)) throw error; // and what was to be sent is kept
      return null;
    });
    now = saved ? saved.now : await current();
    keep(null);
  } catch {
    complain(words("problem"));
    return false;
  } finally {
    sending = false;
  }
  if (now) showNow();
  else showWithdrawn();
  return saved !== null;
}

async function deliver(answer) {
  byId("saved").textContent = words("saving");
  const taken = await change("/api/answers", answer, "waiting");
  byId("saved").textContent = taken ? words("saved") : "";
}

// The second click of a double click takes back nothing more.
async function undo() {
  if (sending || !now?.last || performance.now() - undoneAt < SETTLE_MILLISECONDS) return;
  await change("/api/undo", now.last);
  undoneAt = performance.now();
  byId("saved").textContent = "";
}

// --- beginning, and coming back ---------------------------------------------------------------------------------------

async function read(language) {
  const wanted = language ?? stored(LANGUAGE);
  const reach = about ? persist : ask; // without its words the page cannot say that it tries again
  about = await reach(`/api/study${wanted ? `?language=${encodeURIComponent(wanted)}` : ""}`);
  if (!wanted) {
    const known = navigator.languages.map((one) => about.languages.find((own) => own === one || own === one.split("-")[0]));
    const own = known.find((one) => one);
    if (own && own !== about.language) about = await persist(`/api/study?language=${encodeURIComponent(own)}`);
  }
  document.documentElement.lang = about.language;
  byId("title").textContent = about.title;
  byId("languages").hidden = about.languages.length < 2;
  byId("language").replaceChildren(...about.languages.map((one) => new Option(one, one, false, one === about.language)));
  for (const [id, name] of [["sure-text", "withdraw_sure"], ["sure-yes", "withdraw_yes"], ["sure-no", "withdraw_no"]]) {
    byId(id).textContent = words(name);
  }
}

async function begin(language) {
  try {
    await read(language);
    if (!about.joined) return showConsent();
    const answer = kept();
    if (answer) return await deliver(answer);
    now = await persist("/api/state");
    showNow();
  } catch (error) {
    complain(about ? words("problem") : `The page could not be loaded. Please reload it. ${error.message}`);
  }
}

// Another tab may have gone on.
async function refresh() {
  if (sending || !now) return;
  const found = await ask("/api/state").catch((error) => (isWithdrawn(error) ? null : now));
  if (sending || !now) return;
  if (!found) return showWithdrawn();
  const same = found.trial?.trial === now.trial?.trial && found.trial?.attempt === now.trial?.attempt;
  if (same) return;
  now = found;
  showNow();
}

byId("agree-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  byId("agree").disabled = true;
  try {
    await persist("/api/consent", { agreed: true, code: byId("code").value });
    await begin();
  } catch (error) {
    complain(error.message);
  }
  byId("agree").disabled = false;
});
byId("undo").addEventListener("click", (event) => { if (event.detail < 2) undo(); });
byId("save").addEventListener("click", () => {
  if (ready && !sending && placed.length === now.trial.options.length) send(placed);
});
byId("withdraw").addEventListener("click", () => byId("sure").showModal());
byId("sure-no").addEventListener("click", () => byId("sure").close());
byId("sure-yes").addEventListener("click", async () => {
  byId("sure").close();
  try {
    await persist("/api/withdraw", { sure: true });
  } catch { return complain(words("problem")); }
  showWithdrawn();
});
byId("language").addEventListener("change", (event) => {
  store(LANGUAGE, event.target.value);
  begin(event.target.value);
});
addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, dialog");
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || typing || byId("trial").hidden) return;
  if (event.key === "Backspace") return undo();
  if (/^[1-9]$/.test(event.key)) choose(Number(event.key) - 1);
});
// An option is marked under a mouse that moves. One that rests where the last answer was given marks none: that would
// favour a position. A finger marks none either.
byId("options").addEventListener("pointermove", (event) => {
  if (event.pointerType === "mouse" && (event.movementX || event.movementY)) byId("trial").classList.add("pointed");
});
addEventListener("pageshow", (event) => { if (event.persisted) refresh(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
begin();
