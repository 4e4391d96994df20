// The timeline of the fleet on a canvas: a bar for each sandbox, packed into as few lanes
// as they need. The list says the same in words.

import { PHASE_NAMES, hasEnded } from "./fleet.js";
import { $, clock, dateTime, duration, setText } from "./dom.js";

const AXIS = 20;
const MAX_BAR = 14;
const MIN_SPAN = 10; // seconds
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400,
  172800, 604800];

export class Chart {
  #canvas = $("chart");
  #tip = $("tip");
  #fleet;
  #onOpen;
  #items = [];
  #bars = []; // {one, lane, from, to}
  #lanes = 0;
  #range = [0, 1];
  #selected = null;
  #due = false;
  #colors = null;

  constructor({ fleet, onOpen }) {
    this.#fleet = fleet;
    this.#onOpen = onOpen;
    new ResizeObserver(() => this.draw()).observe(this.#canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.#colors = null;
      this.draw();
    });
    $("window").addEventListener("change", () => this.draw());
    this.#canvas.addEventListener("pointermove", (event) => this.#hover(event));
    this.#canvas.addEventListener("pointerleave", () => { this.#tip.hidden = true; });
    this.#canvas.addEventListener("click", (event) => {
      const bar = this.#barAt(event);
      if (bar) this.#onOpen(bar.one.id);
    });
  }

  show(items) {
    this.#items = items;
    this.draw();
  }

  select(id) {
    this.#selected = id;
    this.draw();
  }

  draw() {
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      this.#paint();
    });
  }

  #palette() {
    if (this.#colors) return this.#colors;
    const style = getComputedStyle(document.documentElement);
    this.#colors = Object.fromEntries(["pending", "booting", "running", "ended", "timeout", "error",
      "line", "muted", "text"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    return this.#colors;
  }

  #measure() {
    const now = this.#fleet().now();
    const seconds = Number($("window").value);
    let from = now - seconds;
    if (!seconds) {
      from = this.#items.reduce((least, one) => Math.min(least, one.created), now - MIN_SPAN);
    }
    this.#range = [from, now + (now - from) * 0.02];
  }

  // Whoever begins first gets the first lane that is free.
  #pack() {
    const [from, to] = this.#range;
    const gap = (to - from) * 0.004;
    const free = [];
    this.#bars = [];
    const inSight = this.#items.filter((one) => (one.ended ?? to) >= from)
      .sort((a, b) => a.created - b.created);
    for (const one of inSight) {
      const end = one.ended ?? to;
      let lane = free.findIndex((until) => until <= one.created);
      if (lane < 0) lane = free.length;
      free[lane] = end + gap;
      this.#bars.push({ one, lane, from: one.created, to: end });
    }
    this.#lanes = free.length;
  }

  #paint() {
    const box = this.#canvas.parentElement;
    const width = box.clientWidth;
    const height = box.clientHeight;
    if (width === 0 || height === 0) return;
    const scale = window.devicePixelRatio || 1;
    if (this.#canvas.width !== Math.round(width * scale)
      || this.#canvas.height !== Math.round(height * scale)) {
      this.#canvas.width = Math.round(width * scale);
      this.#canvas.height = Math.round(height * scale);
    }
    const pen = this.#canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    this.#measure();
    this.#pack();
    this.#axis(pen, width, height);
    for (const bar of this.#bars) this.#bar(pen, bar, width, height);
    this.#describe();
  }

  #x(seconds, width) {
    const [from, to] = this.#range;
    return ((seconds - from) / (to - from)) * width;
  }

  #pitch(height) {
    return Math.min(MAX_BAR, (height - AXIS - 4) / Math.max(1, this.#lanes));
  }

  #axis(pen, width, height) {
    const colors = this.#palette();
    const [from, to] = this.#range;
    const least = (to - from) / Math.max(2, width / 110);
    const step = STEPS.find((one) => one >= least) ?? STEPS.at(-1);
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "bottom";
    pen.fillStyle = colors.muted;
    pen.strokeStyle = colors.line;
    pen.lineWidth = 1;
    const zone = new Date(to * 1000).getTimezoneOffset() * 60;
    for (let at = Math.ceil((from - zone) / step) * step + zone; at <= to; at += step) {
      const x = Math.round(this.#x(at, width)) + 0.5;
      pen.beginPath();
      pen.moveTo(x, 0);
      pen.lineTo(x, height - AXIS);
      pen.stroke();
      const label = step >= 86400 ? dateTime(at).slice(0, 6) : clock(at).slice(0, step < 60 ? 8 : 5);
      const half = pen.measureText(label).width / 2;
      if (x > half && x < width - half) pen.fillText(label, x - half, height - 3);
    }
  }

  #bar(pen, { one, lane, to }, width, height) {
    const colors = this.#palette();
    const pitch = this.#pitch(height);
    const thick = Math.max(0.75, pitch > 4 ? pitch - 2 : pitch * 0.8);
    const y = 2 + lane * pitch;
    const piece = (from, until, color) => {
      if (from === null || from === undefined) return;
      const left = Math.max(-2, this.#x(from, width));
      const right = this.#x(until, width);
      if (right < 0) return;
      pen.fillStyle = color;
      pen.fillRect(left, y, Math.max(1, right - left), thick);
    };
    const { pending, booting, running } = colors;
    piece(one.created, one.provisioned ?? one.started ?? to, pending);
    piece(one.provisioned, one.started ?? to, booting);
    piece(one.started, to, running);
    if (hasEnded(one)) {
      const x = this.#x(to, width);
      pen.fillStyle = colors[one.phase];
      pen.fillRect(Math.max(0, x - 3), y, 3, thick);
    }
    if (one.id !== this.#selected) return;
    pen.strokeStyle = colors.text;
    pen.lineWidth = 1.5;
    const left = this.#x(one.created, width);
    pen.strokeRect(left - 1, y - 1, Math.max(3, this.#x(to, width) - left) + 2, thick + 2);
  }

  // For those who do not see it.
  #describe() {
    const [from, to] = this.#range;
    const counts = {};
    for (const { one } of this.#bars) counts[one.phase] = (counts[one.phase] ?? 0) + 1;
    const words = Object.entries(counts).map(([phase, n]) => `${n} ${PHASE_NAMES[phase]}`);
    const label = `Timeline of ${this.#bars.length} sandboxes over ${duration(to - from)}: `
      + `${words.join(", ") || "none"}`;
    if (this.#canvas.getAttribute("aria-label") !== label) {
      this.#canvas.setAttribute("aria-label", label);
    }
  }

  #barAt(event) {
    const { width, height } = this.#canvas.getBoundingClientRect();
    const lane = Math.floor((event.offsetY - 2) / this.#pitch(height));
    const [from, to] = this.#range;
    const at = from + (event.offsetX / width) * (to - from);
    const slack = ((to - from) / width) * 4;
    return this.#bars.find((bar) =>
      bar.lane === lane && at >= bar.from - slack && at <= bar.to + slack);
  }

  #hover(event) {
    const bar = this.#barAt(event);
    this.#canvas.style.cursor = bar ? "pointer" : "default";
    this.#tip.hidden = !bar;
    if (!bar) return;
    const { one } = bar;
    const parts = [one.name || one.id, PHASE_NAMES[one.phase]];
    if (one.started && one.provisioned) parts.push(`booted in ${duration(one.started - one.provisioned)}`);
    if (one.started) {
      parts.push(`ran ${duration((one.ended ?? this.#fleet().now()) - one.started)}`);
    }
    setText(this.#tip, parts.join(" · "));
    const room = this.#canvas.clientWidth - this.#tip.offsetWidth - 8;
    this.#tip.style.left = `${Math.max(0, Math.min(event.offsetX + 12, room))}px`;
    this.#tip.style.top = `${Math.min(event.offsetY + 14, this.#canvas.clientHeight - 30)}px`;
  }
}
