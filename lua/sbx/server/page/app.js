// The page: asks for the key, shows the fleet, and keeps list, timeline and detail on the
// same choice of sandboxes.

import { KeyRefused, api, key } from "./api.js";
import { Chart } from "./chart.js";
import { Detail } from "./detail.js";
import { Fleet, MAX_SANDBOXES, PHASE_NAMES, hasEnded } from "./fleet.js";
import { List } from "./list.js";
import { $, foreign, make, setText } from "./dom.js";

const PHASES = ["pending", "booting", "running", "ended", "timeout", "error"];

const choice = { phase: null, label: null, words: [] };
let fleet = new Fleet();
const current = () => fleet;

const list = new List({ fleet: current, onOpen: open, onLabel: chooseLabel });
const chart = new Chart({ fleet: current, onOpen: open });
const detail = new Detail({
  fleet: current, onClose: close, onDelete: askDelete, onRefused: () => askKey("The key was refused."),
});

// ------------------------------------------------------------------------- choosing

// "living" stands for several states.
function fits(one) {
  if (choice.phase === "living" && hasEnded(one)) return false;
  if (choice.phase && choice.phase !== "living" && one.phase !== choice.phase) return false;
  if (choice.label !== null && !one.labels.includes(choice.label)) return false;
  return choice.words.every((word) => one.search.includes(word));
}

let due = false;
function refresh() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    render();
  });
}

function render() {
  const all = fleet.all();
  const shown = all.filter(fits);
  list.show(shown);
  chart.show(shown);
  showTotals(all);
  const filtered = choice.phase || choice.label !== null || choice.words.length > 0;
  setText($("count"), filtered ? `${shown.length} of ${all.length}` : `${all.length} sandboxes`);
  $("empty").hidden = shown.length > 0;
  setText($("empty"), all.length === 0 ? "No sandboxes yet. Those that are created appear here."
    : "None of the sandboxes fits.");
  $("notice").hidden = fleet.total <= MAX_SANDBOXES;
  setText($("notice"), `Of ${fleet.total} sandboxes the newest ${all.length} are shown.`);
  const opened = detail.id && fleet.byId.get(detail.id);
  if (opened) detail.update(opened);
}

function showTotals(all) {
  const counts = Object.fromEntries(PHASES.map((phase) => [phase, 0]));
  for (const one of all) counts[one.phase]++;
  const living = counts.pending + counts.booting + counts.running;
  const entries = [[null, "all", all.length], ["living", "alive", living],
    ...PHASES.map((phase) => [phase, PHASE_NAMES[phase], counts[phase]])];
  const box = $("totals");
  if (box.children.length === 0) {
    for (const [phase, name] of entries) {
      const button = make("button", { type: "button", className: `total ${phase ?? "all"}` },
        make("b"), make("span", { textContent: name }));
      button.addEventListener("click", () => {
        choice.phase = choice.phase === phase ? null : phase;
        refresh();
      });
      box.append(make("li", {}, button));
    }
  }
  entries.forEach(([phase, , count], index) => {
    const button = box.children[index].firstChild;
    setText(button.firstChild, String(count));
    button.classList.toggle("none", count === 0);
    button.setAttribute("aria-pressed", String(choice.phase === phase));
  });
}

function chooseLabel(label) {
  choice.label = label;
  const box = $("label-filter");
  box.hidden = label === null;
  if (label !== null) {
    const drop = make("button", { type: "button", className: "chip on", "aria-label": `Not only ${label}` },
      foreign(label), make("span", { textContent: " ×", "aria-hidden": "true" }));
    drop.addEventListener("click", () => chooseLabel(null));
    box.replaceChildren(drop);
  }
  refresh();
}

$("search").addEventListener("input", () => {
  choice.words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  refresh();
});
$("filters").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea, dialog");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  $("search").focus();
});

// ------------------------------------------------------------------- one sandbox

function open(id) {
  const one = fleet.byId.get(id);
  if (!one) return;
  document.body.classList.add("with-detail");
  detail.open(one);
  list.select(id);
  chart.select(id);
}

function close() {
  const id = detail.id;
  document.body.classList.remove("with-detail");
  detail.close();
  list.select(null);
  chart.select(null);
  if (id) list.focus(id);
}

function askDelete(one) {
  const dialog = $("delete-dialog");
  setText($("delete-name"), one.name || one.id);
  dialog.returnValue = "no";
  dialog.onclose = async () => {
    if (dialog.returnValue !== "delete") return;
    try {
      await api.remove(one.id);
    } catch (failure) {
      if (failure instanceof KeyRefused) return askKey("The key was refused.");
      $("notice").hidden = false;
      setText($("notice"), `It could not be deleted: ${failure.message}`);
    }
  };
  dialog.showModal();
}

// ------------------------------------------------------------------------ the key

function showState(state) {
  const box = $("connection");
  box.className = `connection ${state}`;
  setText(box, { live: "live", lost: "reconnecting…" }[state] ?? "connecting…");
}

function start() {
  fleet.stop();
  fleet = new Fleet();
  fleet.addEventListener("change", refresh);
  fleet.addEventListener("state", (event) => showState(event.detail));
  fleet.addEventListener("refused", () => askKey("The key was refused."));
  $("main").hidden = false;
  $("forget").hidden = false;
  showState("connecting");
  fleet.live();
}

function askKey(problem = "") {
  key.forget();
  fleet.stop();
  fleet = new Fleet();
  document.body.classList.remove("with-detail");
  detail.close();
  $("main").hidden = true;
  $("forget").hidden = true;
  setText($("connection"), "");
  setText($("key-error"), problem);
  if (!$("key-dialog").open) $("key-dialog").showModal();
  $("key").focus();
}

$("key-dialog").addEventListener("cancel", (event) => event.preventDefault());
$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const given = $("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(given)) {
    setText($("key-error"), "A key has no blanks and only plain characters.");
    return;
  }
  try {
    await api.tryKey(given);
  } catch (failure) {
    setText($("key-error"), failure instanceof KeyRefused ? failure.message
      : `The server could not be asked: ${failure.message}`);
    $("key").select();
    return;
  }
  key.set(given);
  $("key").value = "";
  setText($("key-error"), "");
  $("key-dialog").close();
  start();
});
$("forget").addEventListener("click", () => askKey());

setInterval(() => {
  if (document.hidden) return;
  list.tick();
  chart.draw();
  detail.tick();
}, 1000);

if (key.get()) start();
else askKey();
