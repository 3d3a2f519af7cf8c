// What is asked for. It outlives a reload of the tab, and every tab has its own.

const KEY = "facecrafter-studio";
export const MOST_SEED = 2 ** 32 - 1;

const fresh = () => ({
  people: [], // {photo, name, example}
  examples: [], // the ids of photos that are generated people
  other: null, // {photo, name, reading}
  exact: false,
  pose: { yaw: 0, pitch: 0, roll: 0 },
  expression: {}, // full names to numbers above 0
  linked: true,
  start: "neutral",
  emotion: { kind: "none", name: "", strength: 0.8, valence: 0, arousal: 0 },
  seed: Math.floor(Math.random() * 100000),
  locked: true,
  n: 4,
  bestOf: 1,
  speed: "",
  auto: true,
  consent: false,
  job: null, // the id of the last full job
});

export const state = { ...fresh(), ...stored() };
// The files of photos, by id: a server that was started again has forgotten them, and gets them again.
export const files = new Map();

function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

export function keep() {
  sessionStorage.setItem(KEY, JSON.stringify(state));
}

export function newSeed() {
  state.seed = Math.floor(Math.random() * MOST_SEED);
}

/** What a control is called; `name` is its own, or that of one side. */
export function labelOf({ name: own, words }, name) {
  const side = name.startsWith(own) ? name.slice(own.length).toLowerCase() : "";
  return `${words[0].toUpperCase()}${words.slice(1)}${side ? `, ${side}` : ""}`;
}

/** The numbers of an expression under the shortest names: one where both sides are alike. */
export function named(expression, controls) {
  const found = {};
  for (const { name, sides } of controls) {
    const values = sides.map((side) => expression[side] ?? 0);
    if (values.every((value) => value === values[0])) {
      if (values[0]) found[name] = values[0];
    } else {
      sides.forEach((side, index) => {
        if (values[index]) found[side] = values[index];
      });
    }
  }
  return found;
}

/** The request for what is asked for, without what only concerns how it is made. */
export function wish(controls) {
  const made = { identity: state.people.map((one) => one.photo) };
  if (state.exact && state.other) {
    made.landmarks_from = state.other.photo;
  } else {
    made.pose = { ...state.pose };
    const expression = named(state.expression, controls.expression);
    if (Object.keys(expression).length) made.expression = expression;
    if (state.start !== "neutral") made.start = state.start;
  }
  const { kind, name, strength, valence, arousal } = state.emotion;
  if (kind === "word" && (strength > 0 || name === "neutral")) {
    made.emotion = { [name]: name === "neutral" ? 1 : strength };
  }
  if (kind === "point") Object.assign(made, { valence, arousal });
  return made;
}

/** Put what an earlier request asked for back into the controls. */
export function restore(request, photos, controls) {
  const sides = new Map(controls.flatMap((one) => [[one.name, one.sides], ...one.sides.map((side) => [side, [side]])]));
  state.people = (request.identity ?? []).map((photo) => ({
    photo,
    name: photos[photo] ?? "photo",
    example: state.examples.includes(photo),
  }));
  state.exact = Boolean(request.landmarks_from);
  if (request.landmarks_from) state.other = { photo: request.landmarks_from, name: photos[request.landmarks_from] };
  state.pose = { yaw: 0, pitch: 0, roll: 0, ...request.pose };
  state.expression = {};
  for (const [name, value] of Object.entries(request.expression ?? {})) {
    for (const side of sides.get(name) ?? []) state.expression[side] = value;
  }
  state.start = request.start ?? "neutral";
  const emotion = { ...state.emotion, kind: "none", name: "" };
  if (request.emotion && typeof request.emotion === "object") {
    const [name, strength] = Object.entries(request.emotion)[0];
    Object.assign(emotion, { kind: "word", name, strength });
  } else if (request.valence !== undefined && request.valence !== null) {
    Object.assign(emotion, { kind: "point", valence: request.valence, arousal: request.arousal });
  }
  state.emotion = emotion;
  state.seed = request.seed ?? 0;
  if (!request.sweep?.length) state.n = request.n ?? 1; // a strip itself is how many images there are
  state.bestOf = request.best_of ?? 1;
  state.speed = request.speed ?? "";
  keep();
}
