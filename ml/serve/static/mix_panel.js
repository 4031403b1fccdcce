// The mix: dropping a file, taking a song, leaving stems out.

import { ApiError, postJson, sendMix } from "./api.js";
import { music, PLAY_ICON, seconds } from "./cards.js";
import { drawWave, showPlayed } from "./waveform.js";

const byId = (id) => document.getElementById(id);

export class MixPanel {
  #on;
  #bounds = null;
  #sending = null;

  // `on`: {begin(), sent(mix), problem(error), leaveOut(keys, stem), clear(), play(), seek(share)}
  constructor(on) {
    this.#on = on;
    byId("mix-play").innerHTML = PLAY_ICON;
    byId("mix-play").addEventListener("click", () => on.play());
    byId("mix-clear").addEventListener("click", () => on.clear());
    byId("mix-wave").addEventListener("click", (event) => {
      const box = byId("mix-wave").getBoundingClientRect();
      on.seek((event.clientX - box.left) / box.width);
    });
    byId("file").addEventListener("change", (event) => {
      if (event.target.files.length) this.send(event.target.files[0]);
      event.target.value = "";
    });
    byId("drop").querySelector("path").setAttribute("d", welcomeWave());
    this.#wireDrop();
  }

  setBounds(bounds) {
    this.#bounds = bounds;
    byId("bounds").textContent = `, up to ${Math.round(bounds.upload_bytes / 1e6)} MB and ${Math.round(bounds.mix_s / 60)} min`;
  }

  async send(file) {
    const most = this.#bounds?.upload_bytes ?? Infinity;
    if (file.size > most) {
      const sizes = `${file.size.toLocaleString("en")} bytes or more; expected at most ${most.toLocaleString("en")}`;
      this.#on.problem(new ApiError(`${file.name} has ${sizes}; convert it to flac, or cut it`, 413));
      return;
    }
    await this.#wait(`Sending ${file.name}`, (signal, onProgress) => sendMix(file, { signal, onProgress }));
  }

  // A mix of a song: {corpus, track, out}.
  async take({ corpus, track, out }) {
    const body = { corpus, track_id: track, leave_out: out };
    await this.#wait(`Mixing ${track}`, (signal) => postJson("/api/tracks/mix", body, { signal }));
  }

  show(mix, stems) {
    byId("drop").hidden = mix !== null;
    byId("mix").hidden = mix === null;
    if (mix === null) return;
    byId("mix-name").textContent = mix.name;
    const from = mix.corpus === null ? "your file" : `song of ${mix.corpus}`;
    byId("mix-about").textContent = [from, seconds(mix.waveform.duration_s), ...music(mix)].join(" · ");
    drawWave(byId("mix-wave"), { peaks: mix.waveform.peaks, durationS: mix.waveform.duration_s });
    this.#showStems(mix, stems);
  }

  showPlayed(share, state) {
    showPlayed(byId("mix-wave"), share);
    byId("mix").dataset.state = state;
    byId("mix-play").setAttribute("aria-label", state === "playing" ? "Pause" : "Play the mix alone");
  }

  #showStems(mix, stems) {
    byId("mix-stems").hidden = mix.corpus === null;
    const out = new Set(mix.left_out.map((stem) => stem.key));
    byId("mix-chips").replaceChildren(
      ...stems.map((stem) => {
        const chip = document.createElement("button");
        chip.type = "button";
        chip.className = "chip stem-chip";
        chip.textContent = stem.label;
        chip.title = stem.key;
        chip.setAttribute("aria-pressed", String(!out.has(stem.key)));
        chip.addEventListener("click", () => {
          const isOut = !out.has(stem.key);
          const others = stems.map((one) => one.key).filter((key) => out.has(key) && key !== stem.key);
          this.#on.leaveOut(isOut ? [...others, stem.key] : others, isOut ? stem : null);
        });
        return chip;
      }),
    );
  }

  async #wait(text, work) {
    this.#sending?.abort();
    this.#on.begin();
    const sending = (this.#sending = new AbortController());
    const bar = byId("sending-bar");
    const say = (words) => (byId("sending-text").textContent = words);
    bar.removeAttribute("value");
    say(`${text} …`);
    byId("sending").hidden = false;
    try {
      const mix = await work(sending.signal, (share) => {
        bar.value = share;
        if (share === 1) {
          bar.removeAttribute("value");
          say("Decoding …");
        }
      });
      if (sending === this.#sending) await this.#on.sent(mix);
    } catch (error) {
      if (error.name !== "AbortError") this.#on.problem(error);
    } finally {
      if (sending === this.#sending) byId("sending").hidden = true;
    }
  }

  #wireDrop() {
    const show = (isOver) => document.body.classList.toggle("dragging", isOver);
    const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      show(true);
    });
    addEventListener("dragleave", (event) => event.relatedTarget === null && show(false));
    addEventListener("drop", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      show(false);
      if (event.dataTransfer.files.length) this.send(event.dataTransfer.files[0]);
    });
  }
}

// A decoration: two voices around a line.
function welcomeWave() {
  const parts = [];
  for (let i = 0; i < 48; i += 1) {
    const envelope = Math.sin((Math.PI * (i + 0.5)) / 48);
    const height = 3 + 17 * envelope * Math.abs(Math.sin(i * 1.7) * Math.cos(i * 0.6));
    parts.push(`M${i * 5 + 1} ${(22 - height).toFixed(1)}h3v${(2 * height).toFixed(1)}h-3z`);
  }
  return parts.join("");
}
