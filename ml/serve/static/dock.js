// The player at the foot of the page: transport, gains, and mix and stem on one time line.

import { PLAY_ICON, seconds } from "./cards.js";
import { Duet } from "./waveform.js";

const STEP_S = 2;

export class Dock {
  #player;
  #on;
  #element = document.getElementById("dock");
  #slider = document.getElementById("duet");
  #duet = new Duet(this.#slider);
  #parts = Object.fromEntries(
    ["toggle", "previous", "next", "loop", "fit", "fit-key", "excerpt", "now-title", "now-time", "now-fit"].map((id) => [id, document.getElementById(id)]),
  );

  // `on`: {toggle(), step(by), seek(placeS), fit(), fitKey()}
  constructor(player, on) {
    this.#player = player;
    this.#on = on;
    this.#parts.toggle.innerHTML = PLAY_ICON;
    this.#parts.toggle.addEventListener("click", () => on.toggle());
    this.#parts.previous.addEventListener("click", () => on.step(-1));
    this.#parts.next.addEventListener("click", () => on.step(1));
    this.#parts.fit.addEventListener("click", () => on.fit());
    this.#parts["fit-key"].addEventListener("click", () => on.fitKey());
    this.#parts.excerpt.addEventListener("dragstart", (event) => {
      const { href, download } = this.#parts.excerpt;
      event.dataTransfer.setData("DownloadURL", `audio/wav:${download}:${href}`);
    });
    this.#parts.loop.addEventListener("click", () => player.setLoop(!player.isLooping));
    for (const lane of this.#element.querySelectorAll(".lane")) this.#wireLane(lane);
    this.#wireSlider();
    player.addEventListener("change", () => this.show());
    player.addEventListener("tick", () => this.tick());
  }

  // `changes`: what was done to the stem for the mix, or why it was not.
  setTitle(text, changes = []) {
    this.#parts["now-title"].textContent = text;
    Object.assign(this.#parts["now-fit"], { textContent: changes.join(" · "), title: changes.join("\n") });
  }

  // Whether stems are brought to tempo and key of the mix.
  setFit({ tempo, key }, isPossible) {
    for (const [name, isOn] of [["fit", tempo], ["fit-key", key]]) {
      this.#parts[name].setAttribute("aria-pressed", String(isOn));
      this.#parts[name].disabled = !isPossible;
    }
  }

  // What can be kept of the stem: {url, name}, or null.
  setExcerpt(excerpt) {
    this.#parts.excerpt.hidden = excerpt === null;
    if (excerpt !== null) Object.assign(this.#parts.excerpt, { href: excerpt.url, download: excerpt.name });
  }

  show() {
    const player = this.#player;
    const { mix, stem } = player.lanes;
    const totalS = player.durationS;
    this.#element.hidden = mix.sound === null && stem.sound === null;
    document.body.classList.toggle("has-dock", !this.#element.hidden);
    const state = player.isLoading ? "loading" : player.isPlaying ? "playing" : "idle";
    this.#element.dataset.state = state;
    this.#parts.toggle.setAttribute("aria-label", player.isPlaying ? "Pause" : "Play");
    this.#parts.loop.setAttribute("aria-pressed", String(player.isLooping));
    this.#element.classList.toggle("alone", mix.sound === null || stem.sound === null);
    this.#slider.setAttribute("aria-label", mix.sound === null ? "Place in the stem" : "Place in the mix");
    this.#slider.setAttribute("aria-valuemax", totalS.toFixed(0));
    this.#duet.show("mix", mix.sound, 0, totalS);
    this.#duet.show("stem", stem.sound, mix.sound === null ? 0 : -player.offsetS, totalS);
    this.#duet.region(player.region, totalS);
    this.tick();
  }

  tick() {
    const placeS = this.#player.placeS();
    const totalS = this.#player.durationS || 1;
    this.#duet.head(placeS / totalS);
    const text = `${seconds(placeS)} / ${seconds(totalS)}`;
    if (this.#parts["now-time"].textContent === text) return;
    this.#parts["now-time"].textContent = text;
    this.#slider.setAttribute("aria-valuenow", placeS.toFixed(0));
    this.#slider.setAttribute("aria-valuetext", text);
  }

  #wireLane(lane) {
    const name = lane.dataset.lane;
    const [mute, solo] = [lane.querySelector("[data-mute]"), lane.querySelector("[data-solo]")];
    const [slider, shown] = [lane.querySelector("input"), lane.querySelector("output")];
    const press = (button) => {
      const isOn = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(isOn));
      return isOn;
    };
    mute.addEventListener("click", () => this.#player.setMuted(name, press(mute)));
    solo.addEventListener("click", () => this.#player.setSolo(name, press(solo)));
    const setGain = () => {
      const db = Number(slider.value);
      const text = db <= Number(slider.min) ? "silent" : `${db > 0 ? "+" : ""}${db} dB`.replace("-", "−");
      shown.textContent = text;
      slider.setAttribute("aria-valuetext", text);
      slider.style.setProperty("--value", (db - slider.min) / (slider.max - slider.min));
      this.#player.setGain(name, db);
    };
    slider.addEventListener("input", setGain);
    slider.addEventListener("dblclick", () => {
      slider.value = 0;
      setGain();
    });
    setGain();
  }

  #wireSlider() {
    const seekTo = (event) => {
      const box = this.#slider.getBoundingClientRect();
      this.#on.seek(((event.clientX - box.left) / box.width) * this.#player.durationS);
    };
    this.#slider.addEventListener("click", seekTo);
    this.#slider.addEventListener("keydown", (event) => {
      const placeS = this.#player.placeS();
      const targets = { Home: 0, End: this.#player.durationS, ArrowUp: placeS + STEP_S, ArrowDown: placeS - STEP_S };
      if (!(event.key in targets)) return;
      event.preventDefault();
      this.#on.seek(targets[event.key]);
    });
  }
}
