// Small helpers to build the page. Whatever comes from the server becomes text nodes and
// never markup.

export const $ = (id) => document.getElementById(id);

// An element; `props` are its properties, those with a dash its attributes.
export function make(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name === "role" || name.includes("-")) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Text of somebody else's, which may run from right to left.
export const foreign = (text, className = "") =>
  make("bdi", { className, textContent: String(text) });

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// "3 s", "12 min", "5 h", "2 d".
export function span(seconds) {
  const s = Math.max(0, seconds);
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d`;
}

// What took so long: "8 ms", "1.24 s", "3 min".
export function duration(seconds) {
  if (seconds < 0.001) return "<1 ms";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  return span(seconds);
}

const clockFormat = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit", minute: "2-digit", second: "2-digit",
});
const dateFormat = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", year: "numeric",
  hour: "2-digit", minute: "2-digit", second: "2-digit",
});

export const clock = (seconds) => clockFormat.format(seconds * 1000);
export const dateTime = (seconds) => dateFormat.format(seconds * 1000);
