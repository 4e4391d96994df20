// All that this page knows of the fleet: loaded once, then kept up to date by the events.

import { KeyRefused, api } from "./api.js";

const PER_PAGE = 500;
export const MAX_SANDBOXES = 5000;
const WAIT_SECONDS = 25;
const MAX_PAUSE_MS = 10000;

const PHASES = {
  PENDING: "pending", PROVISIONING: "booting", RUNNING: "running",
  TERMINATED: "ended", TIMEOUT: "timeout", ERROR: "error",
};
export const PHASE_NAMES = {
  pending: "pending", booting: "booting", running: "running",
  ended: "ended", timeout: "out of time", error: "failed",
};

const text = (value) => (value === null || value === undefined ? "" : String(value));

// What is kept of the API's object.
function sandboxOf(view, exposures) {
  const times = view.times ?? {};
  const labels = Array.isArray(view.labels) ? view.labels.map(text) : [];
  const made = {
    id: text(view.id), name: text(view.name), image: text(view.dockerImage),
    labels, phase: PHASES[view.status] ?? "ended",
    created: times.created, provisioned: times.provisioned, started: times.started,
    ended: times.ended, cpu: view.cpuCores, memory: view.memoryGB, disk: view.diskSizeGB,
    minutes: view.timeoutMinutes, idleMinutes: view.idleTimeoutMinutes,
    network: view.networkAccess, vm: view.vm === true, imageSource: text(view.imageSource),
    imageResolved: text(view.imageResolved), reason: text(view.terminationReason),
    errorType: text(view.errorType), errorMessage: text(view.errorMessage),
    exitCode: view.exitCode, exposures: exposures ?? [],
  };
  made.search = [made.name, made.id, made.image, ...labels].join("\n").toLowerCase();
  return made;
}

export const hasEnded = (sandbox) =>
  sandbox.phase === "ended" || sandbox.phase === "timeout" || sandbox.phase === "error";

const pause = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
});

export class Fleet extends EventTarget {
  byId = new Map();
  total = 0; // that the server knew of when it was asked
  skew = 0;  // seconds that the server's clock is ahead of ours
  #run = null;
  #after = 0;
  #abort = new AbortController();

  now() {
    return Date.now() / 1000 + this.skew;
  }

  // Newest first.
  all() {
    return [...this.byId.values()].sort((a, b) => b.created - a.created || (a.id < b.id ? 1 : -1));
  }

  stop() {
    this.#abort.abort();
  }

  #tell(name, detail) {
    if (!this.#abort.signal.aborted) this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  #clock(answer) {
    this.skew = answer.now - Date.now() / 1000;
  }

  async #load() {
    const { signal } = this.#abort;
    const start = await api.events({}, signal);
    this.#clock(start);
    const byId = new Map();
    const exposures = new Map();
    for (const one of (await api.exposures(signal)).exposures) {
      if (!exposures.has(one.sandbox_id)) exposures.set(one.sandbox_id, []);
      exposures.get(one.sandbox_id).push(one);
    }
    for (let page = 1; byId.size < MAX_SANDBOXES; page++) {
      const answer = await api.list(page, PER_PAGE, signal);
      for (const view of answer.sandboxes) {
        byId.set(view.id, sandboxOf(view, exposures.get(view.id)));
      }
      this.total = answer.total;
      if (!answer.has_next) break;
    }
    this.byId = byId;
    this.#run = start.run;
    this.#after = start.after;
    this.#tell("change", { all: true });
  }

  // Beyond the limit the oldest go, those that have ended first.
  #trim() {
    if (this.byId.size <= MAX_SANDBOXES + PER_PAGE) return;
    const all = this.all();
    const order = [...all.filter((one) => !hasEnded(one)), ...all.filter(hasEnded)];
    this.byId = new Map(order.slice(0, MAX_SANDBOXES).map((one) => [one.id, one]));
  }

  #take(answer) {
    for (const view of answer.sandboxes) {
      if (!this.byId.has(view.id)) this.total++;
      this.byId.set(view.id, sandboxOf(view, view.exposures));
    }
    this.#trim();
    if (answer.sandboxes.length > 0) {
      this.#tell("change", { ids: answer.sandboxes.map((view) => view.id) });
    }
  }

  async #follow() {
    const { signal } = this.#abort;
    await this.#load();
    this.#tell("state", "live");
    while (!signal.aborted) {
      const answer = await api.events({ after: this.#after, wait: WAIT_SECONDS }, signal);
      if (answer.run !== this.#run || answer.lost) return;
      this.#clock(answer);
      this.#after = answer.after;
      this.#take(answer);
    }
  }

  // Goes on until it is stopped or the key is refused.
  async live() {
    const { signal } = this.#abort;
    let wait = 500;
    while (!signal.aborted) {
      try {
        await this.#follow();
        wait = 500;
      } catch (failure) {
        if (signal.aborted) return;
        if (failure instanceof KeyRefused) {
          this.#tell("refused");
          return;
        }
        this.#tell("state", "lost");
        await pause(wait, signal);
        wait = Math.min(wait * 2, MAX_PAUSE_MS);
      }
    }
  }
}
