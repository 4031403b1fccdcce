// Choosing a song from the library to make a mix of.

import { askJson } from "./api.js";

export class Picker {
  #dialog = document.getElementById("picker");
  #text = document.getElementById("picker-text");
  #corpus = document.getElementById("picker-corpus");
  #status = document.getElementById("picker-status");
  #list = document.getElementById("picker-list");
  #request = 0;
  #timer = 0;

  constructor(onChoose) {
    this.onChoose = onChoose;
    for (const button of document.querySelectorAll("[data-open-picker]")) {
      button.addEventListener("click", () => this.open());
    }
    this.#text.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#load(), 150);
    });
    this.#corpus.addEventListener("change", () => this.#load());
    this.#dialog.addEventListener("click", (event) => {
      if (event.target === this.#dialog) this.#dialog.close();
    });
  }

  setCorpora(corpora) {
    for (const { corpus } of corpora) this.#corpus.append(new Option(corpus, corpus));
  }

  open() {
    this.#dialog.showModal();
    this.#text.focus();
    this.#load();
  }

  async #load() {
    const request = ++this.#request;
    const wanted = new URLSearchParams({ limit: 100 });
    if (this.#text.value.trim()) wanted.set("contains", this.#text.value.trim());
    if (this.#corpus.value) wanted.set("corpus", this.#corpus.value);
    try {
      const { total, tracks } = await askJson(`/api/tracks?${wanted}`);
      if (request !== this.#request) return;
      const shown = tracks.length < total ? `, the first ${tracks.length} shown` : "";
      this.#status.textContent = total === 1 ? "1 song" : `${total} songs${shown}`;
      this.#list.replaceChildren(...tracks.map((track) => this.#row(track)));
    } catch (error) {
      this.#status.textContent = error.message;
    }
  }

  #row(track) {
    const row = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "picker-row";
    const title = document.createElement("span");
    title.className = "picker-title";
    title.textContent = track.track_id;
    const about = document.createElement("span");
    about.className = "soft";
    about.textContent = `${track.corpus} · ${track.stems.map((stem) => stem.label).join(", ")}`;
    button.append(title, about);
    button.addEventListener("click", () => {
      this.#dialog.close();
      this.onChoose(track);
    });
    row.append(button);
    return row;
  }
}
