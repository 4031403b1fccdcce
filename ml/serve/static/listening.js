// What is heard: which stem is chosen, how it is brought to the mix, and what the page shows of it
// while it plays.

import { askJson } from "./api.js";

export class Listening {
  mix = null;
  chosen = null; // key of the candidate
  fitted = { tempo: false, key: false }; // what stems are brought to
  #player;
  #cards;
  #dock;
  #panel;
  #on;

  // `on`: {choose(key), problem(error)}
  constructor({ player, cards, dock, panel }, on) {
    this.#player = player;
    this.#cards = cards;
    this.#dock = dock;
    this.#panel = panel;
    this.#on = on;
    player.addEventListener("change", () => this.#showState());
    player.addEventListener("tick", () => this.#showPlace());
  }

  setMix(mix) {
    this.mix = mix;
    this.#dock.setFit(this.fitted, mix !== null);
    if (mix === null) {
      this.#player.setMix(null);
      return;
    }
    const { duration_s: durationS, peaks, served_gain: servedGain } = mix.waveform;
    this.#player.setMix({ url: mix.audio, durationS, peaks, servedGain });
  }

  // The stem that plays, or would; a mix that plays goes on.
  async choose(key, { isToPlay = false, isToReveal = true } = {}) {
    const player = this.#player;
    this.chosen = key;
    this.#on.choose(key);
    this.#cards.choose(key);
    if (isToReveal) this.#cards.reveal(key);
    const candidate = this.#cards.candidate(key);
    const sound = await this.#soundOf(candidate);
    if (this.chosen !== key) return;
    this.#dock.setTitle([candidate.label, candidate.track_id].join(" · "), sound.changes);
    this.#dock.setExcerpt({ url: sound.excerpt, name: `${candidate.label} ${candidate.track_id}.wav` });
    if (isToPlay && player.lanes.stem.sound === null) player.pause(); // the mix alone has its own place
    await this.#guarded(player.setStem(sound));
    this.#showState();
    if (isToPlay && !player.isPlaying) this.#guarded(player.play());
    this.#addPeaks(key);
    const next = this.#cards.keys[this.#cards.keys.indexOf(key) + 1];
    if (player.isPlaying && next !== undefined) player.preload(await this.#soundOf(this.#cards.candidate(next)));
  }

  // Bring stems to tempo or key of the mix, or leave them as they are: {tempo}, {key}.
  fit(changes) {
    if (this.mix === null) return;
    Object.assign(this.fitted, changes);
    this.#dock.setFit(this.fitted, true);
    if (this.chosen !== null) this.choose(this.chosen, { isToReveal: false });
  }

  chooseNone() {
    this.chosen = null;
    this.#cards.choose(null);
    this.#dock.setExcerpt(null);
    this.#dock.setTitle(this.mix?.name ?? "");
    return this.#guarded(this.#player.setStem(null));
  }

  // The button of a card: plays its stem, or pauses it.
  press(key) {
    if (key === this.chosen && this.#isStemOn()) this.toggle();
    else this.choose(key, { isToPlay: true, isToReveal: false });
  }

  toggle() {
    if (this.#player.isPlaying || this.#player.isLoading) this.#player.pause();
    else if (this.#player.durationS) this.#guarded(this.#player.play());
  }

  step(by) {
    const { keys } = this.#cards;
    const next = keys[Math.max(0, Math.min(keys.length - 1, keys.indexOf(this.chosen) + by))];
    if (next !== undefined && next !== this.chosen) this.choose(next);
  }

  // The mix alone.
  async pressMix() {
    const player = this.#player;
    if (player.isPlaying && player.lanes.stem.sound === null) player.pause();
    else {
      await this.chooseNone();
      if (!player.isPlaying) this.#guarded(player.play());
    }
  }

  seek(placeS) {
    this.#guarded(this.#player.seek(placeS));
  }

  // Any place of the stem can be laid beside the place of the mix that it fits.
  async seekStem(key, share) {
    const player = this.#player;
    if (key !== this.chosen || !this.#isStemOn()) await this.choose(key, { isToReveal: false });
    const ownS = share * player.lanes.stem.sound.durationS;
    if (this.mix !== null) player.offsetS = ownS - player.bestS;
    const placeS = this.mix === null ? ownS : player.bestS;
    this.#guarded(player.isPlaying ? player.seek(placeS) : player.play(placeS));
  }

  #isStemOn() {
    return this.#player.lanes.stem.sound !== null && this.#player.lanes.stem.sound.key === this.chosen;
  }

  async #addPeaks(key) {
    const waveform = await this.#cards.waveform(key).catch(() => null);
    const { stem } = this.#player.lanes;
    if (waveform === null || stem.sound?.key !== key) return;
    Object.assign(stem.sound, { peaks: waveform.peaks, servedGain: waveform.served_gain });
    this.#player.setGain("stem", stem.db);
    this.#dock.show();
  }

  #showState() {
    const player = this.#player;
    const state = player.isLoading ? "loading" : player.isPlaying ? "playing" : "idle";
    this.#cards.showState(this.#isStemOn() ? this.chosen : null, state);
    this.#showPlace();
  }

  #showPlace() {
    const { mix_s: mixS, stem_s: stemS, is_playing: isPlaying } = this.#player.clocks();
    const { mix, stem } = this.#player.lanes;
    if (stem.sound !== null) this.#cards.showPlayed(stem.sound.key, stemS / stem.sound.durationS);
    if (mix.sound === null) return;
    this.#panel.showPlayed(mixS / mix.sound.durationS, isPlaying && stem.sound === null ? "playing" : "idle");
  }

  // What plays of a candidate: itself, or what the server makes of it for the mix.
  async #soundOf(candidate) {
    const sound = soundOf(candidate, this.#player.loopS);
    const { tempo, key: toKey } = this.fitted;
    if (this.mix === null || !(tempo || toKey)) return sound;
    const asked = { mix: this.mix.id, start_s: sound.bestS, mix_start_s: sound.mixBestS ?? 0, to_tempo: tempo, to_key: toKey };
    try {
      const fit = await askJson(`/api/stems/${encodeURIComponent(candidate.key)}/fit?${new URLSearchParams(asked)}`);
      const changes = [
        fit.speed.toFixed(2) === "1.00" ? null : `${fit.speed.toFixed(2)} × as fast`,
        fit.semitones === 0 ? null : `${fit.semitones > 0 ? "+" : "−"}${Math.abs(fit.semitones)} semitone${Math.abs(fit.semitones) === 1 ? "" : "s"}`,
        ...fit.notes,
      ];
      const { audio: url, duration_s: durationS, start_s: bestS, mix_start_s: mixBestS, excerpt } = fit;
      return { ...sound, url, durationS, bestS, mixBestS, excerpt, changes: changes.filter(Boolean) };
    } catch (error) {
      this.#on.problem(error);
      return sound;
    }
  }

  async #guarded(work) {
    try {
      await work;
    } catch (error) {
      this.#on.problem(error);
    }
  }
}

function soundOf(candidate, chunkS) {
  const bestS = candidate.best_start_s ?? 0;
  return {
    key: candidate.key,
    url: candidate.audio,
    durationS: candidate.duration_s,
    bestS,
    mixBestS: candidate.mix_start_s,
    servedGain: 1,
    excerpt: `${candidate.audio}?start_s=${bestS}&duration_s=${chunkS}`,
    changes: [],
  };
}
