// One sandbox: facts, exposed ports as links, its commands and its log while they happen.

import { KeyRefused, api } from "./api.js";
import { PHASE_NAMES, hasEnded } from "./fleet.js";
import { $, clock, dateTime, duration, foreign, make, setText, span } from "./dom.js";

const WAIT_SECONDS = 25;
const PAUSE_MS = 2000;
const MAX_LOG = 500000; // characters on the page
const MAX_EXECS = 200;

const RESULTS = { timeout: "out of time", error: "did not finish" };

// A link to an exposed port; anything but plain HTTP is only told.
function portLink(one) {
  const label = `${one.port}${one.name ? ` (${one.name})` : ""}`;
  if (one.protocol === "TCP") {
    return make("li", {}, foreign(label), ` TCP at ${one.external_endpoint ?? "?"}`);
  }
  let url = null;
  try {
    url = new URL(one.url);
  } catch { /* is shown as text */ }
  const ours = url && ["http:", "https:"].includes(url.protocol) && !url.username && !url.password;
  if (!ours) return make("li", {}, foreign(label), " ", foreign(one.url));
  return make("li", {}, make("a", {
    href: url.href, target: "_blank", rel: "noopener noreferrer", referrerPolicy: "no-referrer",
  }, foreign(label), make("span", { className: "to", textContent: ` ${url.host}` })));
}

export class Detail {
  #box = $("detail");
  #parts = {};
  #one = null;
  #abort = null;
  #execs = new Map(); // number → row
  #onClose;
  #onDelete;
  #onRefused;
  #fleet;

  constructor({ fleet, onClose, onDelete, onRefused }) {
    this.#fleet = fleet;
    this.#onClose = onClose;
    this.#onDelete = onDelete;
    this.#onRefused = onRefused;
    this.#box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#onClose();
    });
  }

  get id() {
    return this.#one?.id ?? null;
  }

  open(one) {
    this.close();
    this.#build();
    this.#box.hidden = false;
    this.update(one);
    this.#abort = new AbortController();
    this.#follow(one.id, this.#abort.signal);
    this.#parts.name.focus();
  }

  close() {
    this.#abort?.abort();
    this.#abort = null;
    this.#one = null;
    this.#box.hidden = true;
    this.#box.replaceChildren();
    this.#execs.clear();
  }

  #build() {
    const parts = this.#parts;
    parts.name = make("h2", { id: "detail-name", tabIndex: -1 });
    parts.state = make("span", { className: "state" });
    parts.close = make("button", {
      type: "button", className: "quiet close", "aria-label": "Close", textContent: "×",
    });
    parts.close.addEventListener("click", () => this.#onClose());
    parts.remove = make("button", { type: "button", className: "danger", textContent: "Delete…" });
    parts.remove.addEventListener("click", () => this.#onDelete(this.#one));
    parts.problem = make("p", { className: "problem", hidden: true });
    parts.facts = make("dl", { className: "facts" });
    parts.about = make("dl", { className: "facts" });
    parts.ports = make("ul", { className: "port-list" });
    parts.execs = make("tbody");
    parts.noExecs = make("p", { className: "hint", textContent: "None." });
    parts.execTable = make("table", { className: "execs", hidden: true },
      make("thead", {}, make("tr", {}, make("th", { scope: "col", textContent: "Began" }),
        make("th", { scope: "col", textContent: "Command" }),
        make("th", { scope: "col", className: "number", textContent: "Took" }),
        make("th", { scope: "col", className: "number", textContent: "Exit" }))),
      parts.execs);
    parts.log = make("pre", {
      className: "log", tabIndex: 0, role: "log", "aria-label": "Log", "aria-live": "off",
    });
    parts.followBox = make("input", { type: "checkbox", checked: true });
    parts.portsSection = make("section", {}, make("h3", { textContent: "Exposed ports" }), parts.ports);
    this.#box.replaceChildren(
      make("header", {}, make("div", { className: "heading" }, parts.name, parts.state),
        parts.remove, parts.close),
      parts.problem, parts.facts, parts.portsSection,
      make("section", {}, make("h3", { textContent: "Commands" }), parts.noExecs,
        make("div", { className: "scroll" }, parts.execTable)),
      make("section", { className: "log-section" },
        make("div", { className: "log-head" }, make("h3", { textContent: "Log" }),
          make("label", {}, parts.followBox, " follow")), parts.log),
      make("section", {}, make("h3", { textContent: "About" }), parts.about));
  }

  // The fleet knows something new of it.
  update(one) {
    this.#one = one;
    const parts = this.#parts;
    parts.name.replaceChildren(foreign(one.name || "(no name)"));
    parts.state.className = `state ${one.phase}`;
    setText(parts.state, PHASE_NAMES[one.phase]);
    parts.remove.hidden = hasEnded(one);
    parts.problem.hidden = !one.errorMessage;
    parts.problem.replaceChildren(foreign([one.errorType, one.errorMessage].filter(Boolean).join(": ")));
    this.#facts(one);
    this.#ports(one.exposures);
    this.tick();
  }

  #facts(one) {
    const fact = (name, value) => (value === "" || value === null || value === undefined ? []
      : [make("div", {}, make("dt", { textContent: name }), make("dd", {},
        value instanceof Node ? value : foreign(value)))]);
    this.#parts.age = make("span");
    const labels = make("span", { className: "labels" },
      ...one.labels.map((label) => make("span", { className: "chip still" }, foreign(label))));
    const boot = one.started && one.provisioned ? duration(one.started - one.provisioned) : "";
    this.#parts.facts.replaceChildren(
      ...fact("Image", one.image), ...fact(hasEnded(one) ? "Lived" : "Age", this.#parts.age),
      ...fact("Booted in", boot), ...fact("Because", one.reason.includes(one.errorMessage) && one.errorMessage ? "" : one.reason),
      ...(one.labels.length > 0 ? fact("Labels", labels) : []));
    this.#parts.about.replaceChildren(
      ...fact("Id", one.id), ...fact("Kind", one.vm ? "virtual machine" : "container"),
      ...fact("Created", dateTime(one.created)), ...fact("Ended", one.ended ? dateTime(one.ended) : ""),
      ...fact("Size", `${one.cpu} CPU · ${one.memory} GB memory · ${one.disk} GB disk`),
      ...fact("Lifetime", `${one.minutes} min${one.idleMinutes ? `, ${one.idleMinutes} min idle` : ""}`),
      ...fact("Network", one.network ? "yes" : "none"),
      ...fact("Start command", one.exitCode === null || one.exitCode === undefined ? ""
        : `ended with ${one.exitCode}`),
      ...fact("Runs on", one.imageSource && one.imageSource !== "store" ? one.imageResolved : ""));
  }

  #ports(exposures) {
    this.#parts.portsSection.hidden = exposures.length === 0;
    this.#parts.ports.replaceChildren(...exposures.map(portLink));
  }

  tick() {
    if (!this.#one) return;
    const { created, ended } = this.#one;
    setText(this.#parts.age, ended ? duration(ended - created) : span(this.#fleet().now() - created));
    for (const { one, took } of this.#execs.values()) {
      if (one.result === null) setText(took, `${duration(this.#fleet().now() - one.began)} …`);
    }
  }

  #exec(one) {
    const took = make("td", {
      className: "number", textContent: one.seconds === null ? "…" : duration(one.seconds),
    });
    const result = one.result === null ? "running"
      : RESULTS[one.result] ?? String(one.exit_code ?? "");
    const row = make("tr", { className: one.result ?? "busy" },
      make("td", { textContent: clock(one.began) }),
      make("td", { className: "command", title: one.command }, foreign(one.command)),
      took, make("td", { className: "number", textContent: result }));
    const before = this.#execs.get(one.number);
    if (before) before.row.replaceWith(row);
    else this.#parts.execs.prepend(row);
    this.#execs.set(one.number, { one, row, took });
  }

  #showExecs(list) {
    for (const one of list) this.#exec(one);
    while (this.#execs.size > MAX_EXECS) {
      const [number, { row }] = this.#execs.entries().next().value;
      row.remove();
      this.#execs.delete(number);
    }
    const any = this.#execs.size > 0;
    this.#parts.execTable.hidden = !any;
    this.#parts.noExecs.hidden = any;
  }

  #showLog(answer) {
    const { log, followBox } = this.#parts;
    if (answer.log_lost) log.append("[lines are missing here]\n");
    if (answer.log !== "") log.append(answer.log);
    let size = log.textContent.length;
    while (size > MAX_LOG && log.childNodes.length > 1) {
      size -= log.firstChild.length;
      log.firstChild.remove();
    }
    if (followBox.checked) log.scrollTop = log.scrollHeight;
  }

  async #follow(id, signal) {
    let values = {};
    let run = null;
    while (!signal.aborted) {
      try {
        const answer = await api.activity(id, values, signal);
        if (signal.aborted) return;
        if (run !== null && answer.run !== run) {
          this.#parts.log.replaceChildren();
          this.#execs.clear();
          this.#parts.execs.replaceChildren();
          run = null;
          values = {};
          continue;
        }
        run = answer.run;
        this.#showLog(answer);
        this.#showExecs(answer.execs);
        this.#ports(answer.exposures);
        values = { log: answer.log_after, execs: answer.execs_after, wait: WAIT_SECONDS };
      } catch (failure) {
        if (signal.aborted) return;
        if (failure instanceof KeyRefused) return this.#onRefused();
        if (failure.status === 404) return;
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      }
    }
  }
}
