// The server's API, with the key that was given. The key is in this tab's session storage
// and in the header of requests, nowhere else.

const STORE = "sbxlua.key";

export class KeyRefused extends Error {}

export const key = {
  get: () => sessionStorage.getItem(STORE),
  set: (value) => sessionStorage.setItem(STORE, value),
  forget: () => sessionStorage.removeItem(STORE),
};

async function send(method, path, options = {}) {
  const response = await fetch(`/api/v1${path}`, {
    method,
    headers: { Authorization: `Bearer ${options.key ?? key.get() ?? ""}` },
    signal: options.signal,
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    referrerPolicy: "no-referrer",
  });
  if (response.status === 401) throw new KeyRefused("The server does not know this key.");
  const body = await response.json().catch((failure) => {
    if (options.signal?.aborted) throw failure; // in the middle of the answer
    return {};
  });
  if (response.ok) return body;
  const failure = new Error(String(body.detail ?? `The server answered ${response.status}.`));
  failure.status = response.status;
  throw failure;
}

// A page that nobody looks at holds no connection: browsers allow six for all their tabs.
let hiding = new AbortController();
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return;
  hiding.abort();
  hiding = new AbortController();
});

// Resolves once the page is in sight.
function inSight() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    document.addEventListener("visibilitychange", () => resolve(inSight()), { once: true });
  });
}

// What `ask(signal)` answers, asked again whenever the page comes back into sight.
async function whileInSight(signal, ask) {
  for (;;) {
    await inSight();
    const both = AbortSignal.any([signal, hiding.signal]);
    try {
      return await ask(both);
    } catch (failure) {
      if (signal.aborted || !both.aborted) throw failure;
    }
  }
}

const query = (values) => {
  const text = new URLSearchParams(
    Object.entries(values).filter(([, value]) => value !== undefined && value !== null)).toString();
  return text ? `?${text}` : "";
};

const one = (id) => `/sandbox/${encodeURIComponent(id)}`;

export const api = {
  // Raises KeyRefused unless `candidate` is a key.
  tryKey: (candidate) => send("GET", "/events", { key: candidate }),
  events: (values, signal) => whileInSight(signal, (either) =>
    send("GET", `/events${query(values)}`, { signal: either })),
  list: (page, perPage, signal) =>
    send("GET", `/sandbox${query({ page, per_page: perPage })}`, { signal }),
  exposures: (signal) => send("GET", "/sandbox/expose/all", { signal }),
  activity: (id, values, signal) => whileInSight(signal, (either) =>
    send("GET", `${one(id)}/activity${query(values)}`, { signal: either })),
  remove: (id) => send("DELETE", one(id)),
};
