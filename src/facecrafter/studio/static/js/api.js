// The API: requests, errors as sentences, and jobs watched until they are over.

export class Refused extends Error {
  constructor(status, body, wait) {
    super(body.message || "The server refused this.");
    this.status = status;
    this.kind = body.error || "refused";
    this.wait = wait;
  }
}

export class Away extends Error {
  constructor() {
    super("The server does not answer.");
    this.kind = "away";
  }
}

async function ask(method, path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { method, ...options, headers: { "X-FaceCrafter": "1", ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Away();
  }
  if (answer.status === 204) return null;
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, body, Number(answer.headers.get("Retry-After")) || 0);
  return body;
}

export const get = (path, options) => ask("GET", path, options);
export const remove = (path) => ask("DELETE", path);
export const post = (path, content, options) =>
  ask("POST", path, { ...options, body: JSON.stringify(content), headers: { "Content-Type": "application/json" } });

export function sendPhoto(file) {
  const form = new FormData();
  form.append("photo", file, file.name || "photo");
  return ask("POST", "/v1/photos", { body: form });
}

const BUSY = [429, 503];
const MOST_TRIES = 5;

/** Ask again after a while where the server is busy; `waits` gets the seconds. */
export async function patient(request, waits) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await request();
    } catch (error) {
      if (!BUSY.includes(error.status) || tries >= MOST_TRIES) throw error;
      waits(error.wait || 1);
      await pause((error.wait || 1) * 1000);
    }
  }
}

/** Watch a job; `changed` gets it at every change. Resolves with the job when it is over, and rejects with Away. */
export function watch(id, changed) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(`/v1/jobs/${id}/events`);
    source.addEventListener("job", (event) => {
      const job = JSON.parse(event.data);
      if (isOver(job)) {
        source.close();
        resolve(job);
      } else {
        changed(job);
      }
    });
    source.onerror = () => {
      source.close();
      get(`/v1/jobs/${id}`).then(
        (job) => (isOver(job) ? resolve(job) : setTimeout(() => watch(id, changed).then(resolve, reject), 500)),
        reject,
      );
    };
  });
}

export const isOver = (job) => job.status !== "queued" && job.status !== "running";

/** Resolves when the server answers again. */
export async function back() {
  for (;;) {
    await pause(1000);
    try {
      return await get("/health");
    } catch (error) {
      if (!(error instanceof Away)) throw error;
    }
  }
}

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
