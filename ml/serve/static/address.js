// The address of the page says what was asked, so that it can be kept and sent to others.

export const EMPTY = Object.freeze({
  mix: null, // id of an upload
  corpus: null, // of the song that the mix is made of
  track: null,
  out: [], // keys of its stems that are left out
  instrument: "",
  k: 12,
  corpora: [],
  categories: [],
  labels: [],
  variants: false,
  ownTrack: false,
  perTrack: "",
  bpm: "",
  key: "",
  where: "",
  like: null,
  chosen: null, // key of the candidate
});

const NAMES = {
  mix: "mix",
  corpus: "corpus",
  track: "song",
  out: "out",
  instrument: "instrument",
  k: "k",
  corpora: "in",
  categories: "category",
  labels: "label",
  variants: "variants",
  ownTrack: "own",
  perTrack: "per",
  bpm: "bpm",
  key: "key",
  where: "where",
  like: "like",
  chosen: "stem",
};

export function readAddress() {
  const given = new URLSearchParams(location.search);
  const state = structuredClone(EMPTY);
  for (const [field, name] of Object.entries(NAMES)) {
    if (!given.has(name)) continue;
    if (Array.isArray(state[field])) state[field] = given.getAll(name);
    else if (typeof state[field] === "boolean") state[field] = given.get(name) === "1";
    else if (field === "k") state[field] = Math.min(500, Math.max(1, Number.parseInt(given.get(name), 10) || EMPTY.k));
    else state[field] = given.get(name);
  }
  return state;
}

export function writeAddress(state, { isNew = false } = {}) {
  const written = new URLSearchParams();
  for (const [field, name] of Object.entries(NAMES)) {
    const value = state[field];
    if (Array.isArray(value)) value.forEach((one) => written.append(name, one));
    else if (value !== EMPTY[field] && value !== null && value !== "") written.set(name, value === true ? "1" : value);
  }
  const address = written.size ? `?${written}` : location.pathname;
  if (address === (location.search || location.pathname)) return;
  history[isNew ? "pushState" : "replaceState"](null, "", address);
}

// What /api/search is asked.
export function searchQuery(state, mix, rows) {
  const query = new URLSearchParams({ k: rows ? Math.min(state.k, rows) : state.k });
  if (state.like !== null) query.set("like", state.like);
  else {
    if (mix !== null) query.set("mix", mix.id);
    if (state.instrument) query.set("instrument", state.instrument);
  }
  state.corpora.forEach((corpus) => query.append("corpus", corpus));
  state.categories.forEach((category) => query.append("category", category));
  state.labels.forEach((label) => query.append("label", label));
  if (state.variants) query.set("variants", "true");
  if (state.ownTrack) query.set("own_track", "true");
  if (state.perTrack) query.set("per_track", state.perTrack);
  if (state.bpm) query.set("bpm", state.bpm);
  if (state.key) query.set("musical_key", state.key);
  if (state.where) query.set("where", state.where);
  return query;
}
