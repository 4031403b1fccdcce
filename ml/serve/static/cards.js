// The ranked stems, a card each.

import { askJson } from "./api.js";
import { clearWave, drawWave, showPlayed } from "./waveform.js";

const AT_ONCE = 3; // waveforms that are fetched at one time
const HUES = { drums: 14, percussion: 40, bass: 265, guitar: 140, piano: 205, "other keys": 225, "bowed strings": 330, vocals: 350, wind: 90, "other plucked": 165, other: 60 };

const SCORED = {
  mix: { name: "fit", about: "stem and what the mix lacks", place: "fits best" },
  label: { name: "label", about: "label and words, not sounds", place: "most typical" },
  stem: { name: "likeness", about: "this stem and the example", place: "most alike" },
};

export const PLAY_ICON = '<svg viewBox="0 0 24 24" aria-hidden="true"><path class="icon-play" d="M8 5.5v13l11-6.5z"/><path class="icon-pause" d="M7 5.5h4v13H7zM13 5.5h4v13h-4z"/><circle class="icon-wait" cx="12" cy="12" r="8"/></svg>';

export function seconds(value) {
  const whole = Math.max(0, Math.floor(value));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

// Tempo and key of a stem or mix, as far as it has them.
export function music({ bpm, musical_key: key }) {
  return [bpm === null ? null : `${Math.round(bpm * 10) / 10} bpm`, key].filter(Boolean);
}

export class Cards {
  #list;
  #on;
  #observer;
  #waiting = [];
  #running = 0;
  #shown = new Map(); // key → {candidate, card, wave, waveform}

  // `on`: {play(key), like(key), seek(key, share)}
  constructor(list, on) {
    this.#list = list;
    this.#on = on;
    this.#observer = new IntersectionObserver((seen) => this.#want(seen), { rootMargin: "200px" });
  }

  get keys() {
    return [...this.#shown.keys()];
  }

  candidate(key) {
    return this.#shown.get(key)?.candidate ?? null;
  }

  // `compares`: what scores are of, as the API says; `isGuess`: whether they say little.
  show(candidates, { chunkS, compares, isGuess }) {
    this.clear();
    this.#list.classList.toggle("guesses", isGuess);
    for (const candidate of candidates) {
      const card = this.#card(candidate, chunkS, SCORED[compares]);
      this.#list.append(card);
      this.#observer.observe(card);
    }
  }

  clear() {
    this.#observer.disconnect();
    this.#shown.clear();
    this.#waiting = [];
    this.#list.replaceChildren();
    this.#list.removeAttribute("aria-busy");
  }

  showLoading(count) {
    this.clear();
    this.#list.setAttribute("aria-busy", "true");
    for (let i = 0; i < Math.min(count, 6); i += 1) {
      const card = document.createElement("li");
      card.className = "card skeleton";
      card.setAttribute("aria-hidden", "true");
      card.innerHTML = "<span></span><span></span><span></span>";
      this.#list.append(card);
    }
  }

  choose(key) {
    for (const [other, { card, wave }] of this.#shown) {
      if (other !== key) showPlayed(wave, 0);
      card.classList.toggle("chosen", other === key);
      if (other === key) card.setAttribute("aria-current", "true");
      else card.removeAttribute("aria-current");
    }
  }

  reveal(key) {
    this.#shown.get(key)?.card.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }

  // `state`: "playing", "loading" or "idle", of the chosen card; the others are idle.
  showState(key, state) {
    for (const [other, { card, candidate }] of this.#shown) {
      const own = other === key ? state : "idle";
      const button = card.querySelector(".play");
      if (card.dataset.state === own) continue;
      card.dataset.state = own;
      button.setAttribute("aria-label", `${own === "playing" ? "Pause" : "Play"} ${name(candidate)}`);
      button.setAttribute("aria-busy", String(own === "loading"));
    }
  }

  showPlayed(key, share) {
    const shown = this.#shown.get(key);
    if (shown) showPlayed(shown.wave, share);
  }

  // The waveform of a candidate, fetched now if need be.
  waveform(key) {
    const shown = this.#shown.get(key);
    shown.waveform ??= askJson(shown.candidate.peaks);
    shown.waveform.catch(() => {});
    return shown.waveform;
  }

  #card(candidate, chunkS, scored) {
    const card = document.createElement("li");
    card.className = "card";
    card.dataset.key = candidate.key;
    card.style.setProperty("--hue", HUES[candidate.category] ?? 60);
    card.innerHTML = `
      <button class="play" type="button">${PLAY_ICON}</button>
      <div class="card-names">
        <p class="card-label"><span class="rank"></span><span class="label"></span></p>
        <p class="soft card-track"></p>
      </div>
      <div class="score" role="img"><span class="score-value"></span><span class="score-name soft"></span><span class="score-bar"><span></span></span></div>
      <div class="wave loading"></div>
      <div class="card-actions">
        <span class="soft card-place"></span>
        <span class="soft card-variants" hidden></span>
        <button class="button small like-this" type="button">More like this</button>
        <a class="button small keep" download>Download</a>
      </div>`;
    const part = (selector) => card.querySelector(selector);
    part(".play").setAttribute("aria-label", `Play ${name(candidate)}`);
    part(".rank").textContent = candidate.rank;
    part(".label").textContent = candidate.label;
    part(".card-track").textContent = `${candidate.track_id} · ${candidate.corpus}`;
    part(".card-track").title = candidate.key;
    part(".score").setAttribute("aria-label", `${scored.name} ${candidate.score.toFixed(3)}`);
    part(".score-name").textContent = scored.name;
    part(".score").title = `${scored.about}: cosine ${candidate.score.toFixed(4)}`;
    part(".score-value").textContent = candidate.score.toFixed(2);
    card.style.setProperty("--score", Math.max(0, Math.min(1, candidate.score)));
    part(".card-place").textContent = [...music(candidate), place(candidate, scored)].join(" · ");
    showVariants(part(".card-variants"), candidate);
    part(".keep").href = candidate.file;
    part(".keep").setAttribute("aria-label", `Download ${name(candidate)}`);
    part(".like-this").setAttribute("aria-label", `More like ${name(candidate)}`);
    part(".play").addEventListener("click", () => this.#on.play(candidate.key));
    part(".like-this").addEventListener("click", () => this.#on.like(candidate.key));
    const wave = part(".wave");
    wave.addEventListener("click", (event) => {
      const box = wave.getBoundingClientRect();
      this.#on.seek(candidate.key, (event.clientX - box.left) / box.width);
    });
    this.#shown.set(candidate.key, { candidate, card, wave, chunkS, bestTitle: `${scored.place} here`, waveform: null });
    return card;
  }

  #want(seen) {
    for (const { isIntersecting, target } of seen) {
      if (!isIntersecting) continue;
      this.#observer.unobserve(target);
      this.#waiting.push(target.dataset.key);
    }
    this.#fetchNext();
  }

  async #fetchNext() {
    while (this.#running < AT_ONCE && this.#waiting.length) {
      const key = this.#waiting.shift();
      if (!this.#shown.has(key)) continue;
      this.#running += 1;
      this.#drawWave(key).finally(() => {
        this.#running -= 1;
        this.#fetchNext();
      });
    }
  }

  async #drawWave(key) {
    const { candidate, wave, chunkS, bestTitle } = this.#shown.get(key);
    try {
      const { peaks, duration_s: durationS } = await this.waveform(key);
      drawWave(wave, { peaks, durationS, bestS: candidate.best_start_s, chunkS, bestTitle });
    } catch (error) {
      clearWave(wave);
      wave.classList.remove("loading");
      wave.textContent = error.message;
      wave.classList.add("broken");
    }
  }
}

function name(candidate) {
  return `${candidate.label} of ${candidate.track_id}`;
}

function showVariants(element, { variants, corpus }) {
  element.hidden = variants.length === 0;
  const corpora = [...new Set(variants.map((key) => key.split("/", 1)[0]))].filter((name) => name !== corpus);
  const where = corpora.length ? `: ${corpora.join(", ")}` : "";
  element.textContent = `${variants.length} ${variants.length === 1 ? "variant" : "variants"}${where}`;
  element.title = variants.join("\n");
}

function place(candidate, scored) {
  if (candidate.best_start_s === null) return seconds(candidate.duration_s);
  const from = `${scored.place} from ${seconds(candidate.best_start_s)}`;
  return candidate.mix_start_s === null ? from : `${from}, with the mix from ${seconds(candidate.mix_start_s)}`;
}
