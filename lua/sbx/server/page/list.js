// The list of sandboxes. Only the rows in sight are elements, so that thousands cost as
// much as a screenful.

import { PHASE_NAMES, hasEnded } from "./fleet.js";
import { $, foreign, make, setText, span } from "./dom.js";

const ROW = 52; // pixels; the same in page.css
const MARGIN = 8; // rows beyond both edges
const MAX_LABELS = 4;

export class List {
  #box = $("list");
  #rows = $("rows");
  #items = [];
  #shown = new Map(); // id → row
  #focus = null;      // id of the row in the tab order
  #selected = null;
  #fleet;
  #onOpen;
  #onLabel;

  constructor({ fleet, onOpen, onLabel }) {
    this.#fleet = fleet;
    this.#onOpen = onOpen;
    this.#onLabel = onLabel;
    this.#box.addEventListener("scroll", () => this.#render(), { passive: true });
    new ResizeObserver(() => this.#render()).observe(this.#box);
    this.#rows.addEventListener("keydown", (event) => this.#onKey(event));
    this.#rows.addEventListener("click", (event) => this.#onClick(event));
    this.#rows.addEventListener("focusin", (event) => {
      const row = event.target.closest("[data-id]");
      if (row && event.target === row) this.#focus = row.dataset.id;
    });
  }

  show(items) {
    this.#items = items;
    this.#box.setAttribute("aria-rowcount", items.length + 1);
    this.#rows.style.height = `${items.length * ROW}px`;
    if (!items.some((one) => one.id === this.#focus)) this.#focus = items[0]?.id ?? null;
    this.#render();
  }

  select(id) {
    this.#selected = id;
    this.#render();
  }

  // Gives the keyboard back to the row of `id`.
  focus(id) {
    const index = this.#items.findIndex((one) => one.id === id);
    if (index >= 0) this.#moveTo(index);
    else this.#box.focus();
  }

  tick() {
    for (const one of this.#items) {
      const row = this.#shown.get(one.id);
      if (row) setText(row.age, this.#age(one));
    }
  }

  #age(one) {
    return span(this.#fleet().now() - one.created);
  }

  #render() {
    const top = Math.max(0, this.#box.scrollTop - this.#rows.offsetTop);
    const first = Math.max(0, Math.floor(top / ROW) - MARGIN);
    const last = Math.min(this.#items.length,
      Math.ceil((top + this.#box.clientHeight) / ROW) + MARGIN);
    const wanted = new Map();
    for (let index = first; index < last; index++) wanted.set(this.#items[index].id, index);
    // The one with the keyboard stays, wherever it is.
    const focused = this.#items.findIndex((one) => one.id === this.#focus);
    if (focused >= 0) wanted.set(this.#focus, focused);

    for (const [id, row] of this.#shown) {
      if (wanted.has(id)) continue;
      row.node.remove();
      this.#shown.delete(id);
    }
    for (const [id, index] of wanted) this.#place(id, index);
  }

  #place(id, index) {
    const one = this.#items[index];
    let row = this.#shown.get(id);
    if (!row || row.one !== one) {
      const fresh = this.#row(one);
      const hadFocus = row && document.activeElement === row.node;
      if (row) row.node.replaceWith(fresh.node);
      else this.#rows.append(fresh.node);
      row = fresh;
      this.#shown.set(id, row);
      row.node.tabIndex = 0; // or it would not take the focus
      if (hadFocus) row.node.focus({ preventScroll: true });
    }
    row.node.style.transform = `translateY(${index * ROW}px)`;
    row.node.setAttribute("aria-rowindex", index + 2);
    row.node.setAttribute("aria-selected", String(id === this.#selected));
    row.node.tabIndex = id === this.#focus ? 0 : -1;
    setText(row.age, this.#age(one));
  }

  #row(one) {
    const age = make("span", { role: "gridcell", className: "age" });
    const chips = one.labels.slice(0, MAX_LABELS).map((label) => make("button", {
      type: "button", className: "chip", tabIndex: -1, title: `Only those with ${label}`,
      "data-label": label,
    }, foreign(label)));
    const more = one.labels.length - MAX_LABELS;
    if (more > 0) chips.push(make("span", { className: "more", textContent: `+${more}` }));
    const title = foreign(one.name || "(no name)", "title");
    title.title = one.name;
    const node = make("div", {
      role: "row", className: `row ${hasEnded(one) ? "over" : ""}`, "data-id": one.id,
    },
    make("span", { role: "gridcell" },
      make("span", { className: `state ${one.phase}`, textContent: PHASE_NAMES[one.phase] })),
    make("span", { role: "gridcell", className: "name" },
      title, make("span", { className: "id", textContent: one.id })),
    make("span", { role: "gridcell", className: "image" }, foreign(one.image)),
    make("span", { role: "gridcell", className: "labels" }, ...chips),
    make("span", {
      role: "gridcell", className: "ports",
      textContent: one.exposures.length > 0 ? String(one.exposures.length) : "",
    }),
    age);
    return { node, age, one };
  }

  #onClick(event) {
    const row = event.target.closest("[data-id]");
    if (!row) return;
    const chip = event.target.closest("[data-label]");
    if (chip) this.#onLabel(chip.dataset.label);
    else this.#onOpen(row.dataset.id);
  }

  #moveTo(index) {
    const at = Math.max(0, Math.min(this.#items.length - 1, index));
    if (!this.#items[at]) return;
    this.#focus = this.#items[at].id;
    const top = this.#rows.offsetTop + at * ROW;
    const head = this.#rows.offsetTop;
    if (top - head < this.#box.scrollTop) this.#box.scrollTop = top - head;
    const bottom = top + ROW - this.#box.clientHeight;
    if (bottom > this.#box.scrollTop) this.#box.scrollTop = bottom;
    this.#render();
    this.#shown.get(this.#focus)?.node.focus({ preventScroll: true });
  }

  #onKey(event) {
    const row = event.target.closest("[data-id]");
    if (!row || event.target !== row) return;
    const index = this.#items.findIndex((one) => one.id === row.dataset.id);
    const page = Math.max(1, Math.floor(this.#box.clientHeight / ROW) - 2);
    const steps = {
      ArrowDown: index + 1, ArrowUp: index - 1, PageDown: index + page, PageUp: index - page,
      Home: 0, End: this.#items.length - 1,
    };
    if (event.key in steps) this.#moveTo(steps[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.#onOpen(row.dataset.id);
    else return;
    event.preventDefault();
  }
}
