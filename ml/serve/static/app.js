// The page: what was asked (address.js), what came back (cards.js), what is heard (player.js).

import { readAddress, searchQuery, writeAddress } from "./address.js";
import { askJson } from "./api.js";
import { Cards } from "./cards.js";
import { Dock } from "./dock.js";
import { Filters } from "./filters.js";
import { listenToKeys } from "./keys.js";
import { Listening } from "./listening.js";
import { MixPanel } from "./mix_panel.js";
import { Picker } from "./picker.js";
import { Player } from "./player.js";

const byId = (id) => document.getElementById(id);
const player = new Player();
window.player = player; // player.clocks() reads both media positions

let state = readAddress();
let mix = null;
let rows = 0;
let searching = null;
let suggested = ""; // an instrument that the page wrote, not the person
const COMPARED = {
  mix: "Scores say how near each stem is to what the model expects beside the mix: 1 is the nearest, 0 is nothing alike.",
  label: "No mix is given: stems come by their labels alone. The score compares label and words, not sounds.",
  stem: "Scores say how alike two stems sound: 1 is equal, 0 is nothing alike.",
};
let isRestoring = false; // what the address asked for stays as it is

const cards = new Cards(byId("results"), {
  play: (key) => listening.press(key),
  like: (key) => search({ like: key }),
  seek: (key, share) => listening.seekStem(key, share),
});
const dock = new Dock(player, {
  toggle: () => listening.toggle(),
  step: (by) => listening.step(by),
  seek: (placeS) => listening.seek(placeS),
  fit: () => listening.fit({ tempo: !listening.fitted.tempo }),
  fitKey: () => listening.fit({ key: !listening.fitted.key }),
});
const panel = new MixPanel({
  begin: hideProblem,
  sent: useMix,
  problem: showProblem,
  leaveOut,
  clear: clearMix,
  play: () => listening.pressMix(),
  seek: (share) => listening.seek(share * mix.waveform.duration_s),
});
const listening = new Listening({ player, cards, dock, panel }, { choose: keepChosen, problem: showProblem });
const picker = new Picker((track) => {
  state.instrument = takeBack();
  take({ corpus: track.corpus, track: track.track_id, out: [] });
});
const filters = new Filters((chosen) => search({ ...typed(), ...chosen }));

// Searching.

async function search(changes = {}, { isNew = true, isToKeep = false } = {}) {
  const isOther = "instrument" in changes || "mix" in changes;
  const isReworded = "instrument" in changes && changes.instrument !== state.instrument;
  Object.assign(state, isOther ? { like: null } : {}, isReworded ? { labels: [] } : {}, changes);
  if (!isToKeep) state.chosen = null;
  writeAddress(state, { isNew });
  showAsked();
  if (mix === null && !state.instrument && state.like === null) {
    showNothing();
    return;
  }
  searching?.abort();
  searching = new AbortController();
  hideProblem();
  cards.showLoading(state.k);
  byId("status").textContent = "Searching …";
  try {
    const found = await askJson(`/api/search?${searchQuery(state, mix, rows)}`, { signal: searching.signal });
    showFound(found);
  } catch (error) {
    if (error.name === "AbortError") return;
    cards.clear();
    byId("status").textContent = "";
    showNote(null);
    showProblem(error);
  }
}

function showFound({ candidates, chunk_s: chunkS, compares, note, is_guess: isGuess, matching }) {
  player.loopS = chunkS;
  cards.show(candidates, { chunkS, compares, isGuess });
  const what = state.like === null && state.instrument ? ` for “${state.instrument}”` : "";
  const count = isGuess ? `${candidates.length} guesses` : candidates.length;
  byId("status").textContent = candidates.length
    ? `${count}${what}, ${compares === "label" ? "by label alone" : "the best first"}`
    : "None passes the filters; take some of them away.";
  showNote(note ?? (compares === "label" ? COMPARED.label : null), isGuess);
  byId("score-about").textContent = COMPARED[compares];
  showOffers(matching.filter(({ label }) => candidates.some((one) => one.label !== label && one.category !== label)));
  byId("empty").hidden = true;
  const wanted = candidates.some(({ key }) => key === state.chosen) ? state.chosen : candidates[0]?.key;
  if (wanted !== undefined) listening.choose(wanted, { isToReveal: wanted === state.chosen });
  else listening.chooseNone();
}

function showNote(note, isGuess = false) {
  byId("note").hidden = note === null;
  byId("note").textContent = note ?? "";
  byId("note").classList.toggle("guess", isGuess);
  if (note === null) byId("offers").hidden = true;
}

// The stems whose label is what was meant, and the way back to all.
function showOffers(matching) {
  const all = [{ text: `Only ${state.labels.join(", ")}: show all stems again`, labels: [] }];
  const some = matching.map(({ label, stems }) => ({ text: `Show the ${stems} ${label} stems`, labels: [label] }));
  const offers = state.labels.length ? all : some;
  byId("offers").hidden = offers.length === 0;
  byId("offers").replaceChildren(
    ...offers.map(({ text, labels }) => {
      const chip = document.createElement("button");
      chip.type = "button";
      chip.className = "chip";
      chip.textContent = text;
      chip.addEventListener("click", () => search({ labels }));
      return chip;
    }),
  );
}

function showNothing() {
  searching?.abort();
  cards.clear();
  listening.chooseNone();
  byId("status").textContent = "";
  showNote(null);
  byId("score-about").textContent = "";
  byId("empty").hidden = false;
  byId("empty").textContent = "Nothing is asked yet: choose a mix above, or name an instrument.";
}

function showAsked() {
  byId("instrument").value = state.instrument;
  if (![...byId("k").options].some((option) => Number(option.value) === state.k)) {
    byId("k").append(new Option(state.k, state.k));
  }
  byId("k").value = state.k;
  filters.show(state);
  byId("like").hidden = state.like === null;
  byId("like-text").textContent = state.like === null ? "" : `More like ${state.like}`;
  byId("like-clear").textContent = mix === null ? "Leave" : "Back to the mix";
  for (const chip of byId("examples").children) {
    chip.setAttribute("aria-pressed", String(chip.textContent === state.instrument && state.like === null));
  }
  const parts = [state.like ?? state.instrument, mix?.name].filter(Boolean);
  document.title = parts.length ? `${parts.join(" for ")} – stems` : "stems";
}

// Words that were typed and not asked with yet: whatever else changes, they count.
function typed() {
  const instrument = byId("instrument").value.trim();
  return instrument === state.instrument ? {} : { instrument };
}

// The mix.

async function take(wanted) {
  Object.assign(state, { mix: null, ...wanted });
  await panel.take(wanted);
}

async function useMix(sent) {
  mix = sent;
  const isSong = mix.corpus !== null;
  if (isSong) Object.assign(state, { mix: null, corpus: mix.corpus, track: mix.track_id });
  else Object.assign(state, { mix: mix.id, corpus: null, track: null, out: [] });
  panel.show(mix, isSong ? await stemsOf(mix) : []);
  listening.setMix(mix);
  const isKept = isRestoring;
  isRestoring = false;
  await search(isKept ? {} : { like: null }, { isNew: !isKept, isToKeep: isKept });
}

async function stemsOf({ corpus, track_id: track }) {
  const wanted = new URLSearchParams({ corpus, contains: track, limit: 500 });
  const { tracks } = await askJson(`/api/tracks?${wanted}`);
  return tracks.find((found) => found.track_id === track)?.stems ?? [];
}

// Who takes a stem out most likely wants to find one in its place.
function leaveOut(out, stem) {
  const isFree = state.instrument === "" || state.instrument === suggested;
  if (isFree) state.instrument = suggested = stem === null ? "" : stem.label;
  state.chosen = null;
  take({ corpus: mix.corpus, track: mix.track_id, out });
}

function takeBack() {
  const kept = state.instrument === suggested ? "" : state.instrument;
  suggested = "";
  return kept;
}

function clearMix() {
  mix = null;
  listening.setMix(null);
  panel.show(null, []);
  search({ mix: null, corpus: null, track: null, out: [], instrument: takeBack() });
}

// Problems.

function showProblem(error) {
  byId("problem").hidden = false;
  byId("problem").textContent = error.message;
  byId("problem").scrollIntoView({ block: "nearest" });
}

function hideProblem() {
  byId("problem").hidden = true;
}

function keepChosen(key) {
  state.chosen = key;
  writeAddress(state);
}

listenToKeys({
  " ": () => listening.toggle(),
  n: () => listening.step(1),
  p: () => listening.step(-1),
  l: () => player.setLoop(!player.isLooping),
  t: () => listening.fit({ tempo: !listening.fitted.tempo }),
  k: () => listening.fit({ key: !listening.fitted.key }),
  "/": () => byId("instrument").focus(),
  ArrowLeft: () => listening.seek(player.placeS() - 2),
  ArrowRight: () => listening.seek(player.placeS() + 2),
});

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  suggested = "";
  byId("instrument").blur();
  search({ like: null, instrument: byId("instrument").value.trim(), k: Number(byId("k").value) });
  if (byId("found").getBoundingClientRect().top > innerHeight / 2) byId("found").scrollIntoView({ behavior: "smooth" });
});
byId("k").addEventListener("change", () => search({ ...typed(), k: Number(byId("k").value) }));
byId("instrument").addEventListener("search", () => byId("instrument").value === "" && state.instrument && search({ instrument: "" }));
byId("like-clear").addEventListener("click", () => search({ like: null }));
addEventListener("popstate", () => restore(readAddress()));

// Starting: what the table holds, then what the address says.

async function restore(wanted) {
  state = wanted;
  player.pause();
  isRestoring = true;
  try {
    if (isMixOf(wanted)) await useMix(mix);
    else if (wanted.track !== null) await panel.take({ corpus: wanted.corpus ?? "", track: wanted.track, out: wanted.out });
    else if (wanted.mix !== null) await useMix(await askJson(`/api/mixes/${encodeURIComponent(wanted.mix)}`));
    else await withoutMix();
  } catch (error) {
    state.mix = null;
    await withoutMix();
    showProblem(error);
  } finally {
    isRestoring = false;
  }
}

function isMixOf({ mix: id, corpus, track, out }) {
  if (mix === null) return false;
  const leftOut = mix.left_out.map((stem) => stem.key);
  return id === mix.id || (track !== null && track === mix.track_id && corpus === mix.corpus && String(out) === String(leftOut));
}

function withoutMix() {
  mix = null;
  listening.setMix(null);
  panel.show(null, []);
  return search({}, { isNew: false, isToKeep: true });
}

async function start() {
  showAsked();
  try {
    const [health, words, corpora] = await Promise.all([askJson("/healthz"), askJson("/api/instruments"), askJson("/api/corpora")]);
    rows = health.rows;
    byId("health").textContent = `${rows.toLocaleString("en")} stems · model ${health.model}`;
    panel.setBounds(health.bounds);
    picker.setCorpora(corpora);
    filters.setChoices(corpora, words.categories);
    showWords(words);
  } catch (error) {
    showProblem(error);
  }
  await restore(state);
}

function showWords({ table, training }) {
  const labels = [...new Set([...table.map(({ label }) => label), ...training])];
  byId("instruments").replaceChildren(...labels.map((label) => new Option("", label)));
  const examples = table.map(({ label }) => label).filter((label) => label !== "music").slice(0, 7);
  byId("examples").replaceChildren(
    ...examples.map((label) => {
      const chip = document.createElement("button");
      chip.type = "button";
      chip.className = "chip";
      chip.textContent = label;
      chip.addEventListener("click", () => search({ instrument: state.instrument === label ? "" : label }));
      return chip;
    }),
  );
  showAsked();
}

start();
