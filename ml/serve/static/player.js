// Plays a mix and a stem from one clock.
//
// Both are started with the same `when` of one AudioContext, so they cannot drift. Places are in
// seconds of the mix ("the time line"); the stem is `offset` seconds further in its own time.
// Without a mix the time line is that of the stem.

import { Clips } from "./clips.js";
import { Lane } from "./lane.js";

const RATE_HZ = 44100; // of what the server sends: nothing is resampled
const LEAD_S = 0.03;
const HEADROOM = 0.5; // mix and stem together stay below full scale
const RENEW_S = 4; // before the end of a piece of a long sound the next one is fetched

export class Player extends EventTarget {
  #context = null;
  #clips = null;
  #request = 0;
  #startedAt = 0; // of the context, when the time line was at #placeS
  #placeS = 0;
  #isRenewing = false;
  #starts = 0;

  lanes = { mix: new Lane(), stem: new Lane() };
  isPlaying = false;
  isLoading = false;
  isLooping = false;
  loopS = 8;
  region = null; // {startS, lengthS} on the time line while it repeats
  offsetS = 0;
  bestS = 0; // on the time line: where the chosen stem fits best

  get durationS() {
    return (this.lanes.mix.sound ?? this.lanes.stem.sound)?.durationS ?? 0;
  }

  // Where the time line is; `at` is a time of the context.
  placeS(at = this.#context?.currentTime ?? 0) {
    if (!this.isPlaying) return this.#placeS;
    const placeS = this.#placeS + Math.max(0, at - this.#startedAt);
    if (this.region === null) return Math.min(placeS, this.durationS);
    const { startS, lengthS } = this.region;
    return startS + ((placeS - startS) % lengthS);
  }

  // Both media positions, read at one instant: for people who look under the hood, and for tests.
  clocks() {
    const contextS = this.#context?.currentTime ?? 0;
    const placeS = this.placeS(contextS);
    return {
      context_s: contextS,
      mix_s: this.lanes.mix.sound ? placeS : null,
      stem_s: this.lanes.stem.sound ? placeS + this.offsetS : null,
      is_playing: this.isPlaying,
    };
  }

  // What each lane plays at this instant: samples, the newest last.
  scope() {
    const found = { ...this.clocks(), rate_hz: this.#context?.sampleRate ?? 0 };
    for (const [name, lane] of Object.entries(this.lanes)) found[name] = lane.samples();
    return found;
  }

  setMix(sound) {
    this.pause();
    this.#take("mix", sound);
    this.#placeS = 0;
    this.#tell("change");
  }

  // Choose a stem: {url, durationS, servedGain, bestS, mixBestS}. A mix that plays goes on.
  async setStem(stem) {
    const placeS = this.placeS();
    this.#take("stem", stem);
    if (stem === null) Object.assign(this, { offsetS: 0, bestS: 0 });
    else this.#align(stem, placeS);
    this.#tell("change");
    if (this.isPlaying) await this.play();
  }

  setLoop(isLooping, loopS = this.loopS) {
    Object.assign(this, { isLooping, loopS });
    if (this.isPlaying) this.#start(this.placeS() + LEAD_S);
    this.#tell("change");
  }

  // Play from a place (default: where it is).
  async play(placeS = this.placeS()) {
    const request = ++this.#request;
    const context = this.#open();
    this.isLoading = true;
    this.#tell("change");
    try {
      await context.resume();
      const lanes = Object.values(this.lanes).filter((lane) => lane.sound !== null);
      const clips = await Promise.all(lanes.map((lane) => this.#clips.around(lane.sound, this.#within(lane, placeS))));
      if (request !== this.#request) return;
      lanes.forEach((lane, i) => Object.assign(lane, { clip: clips[i] }));
      // A mix that went on while a stem was loaded is at another place by now.
      this.#start(this.isPlaying ? this.placeS() + LEAD_S : placeS);
    } catch (error) {
      if (request === this.#request) this.pause();
      throw error;
    } finally {
      if (request === this.#request) {
        this.isLoading = false;
        this.#tell("change");
      }
    }
  }

  pause() {
    this.#request += 1;
    this.#placeS = this.placeS();
    this.isPlaying = this.isLoading = false;
    this.region = null;
    this.#silence(this.#context?.currentTime ?? 0);
    this.#tell("change");
  }

  seek(placeS) {
    const wasPlaying = this.isPlaying;
    const to = Math.max(0, Math.min(placeS, this.durationS - 0.05));
    if (wasPlaying) this.pause();
    this.#placeS = to;
    this.#tell("tick");
    return wasPlaying ? this.play(to) : Promise.resolve();
  }

  setGain(name, db) {
    this.lanes[name].db = db;
    this.#mixLevels();
  }

  setMuted(name, isMuted) {
    this.lanes[name].isMuted = isMuted;
    this.#mixLevels();
  }

  setSolo(name, isSolo) {
    this.lanes[name].isSolo = isSolo;
    this.#mixLevels();
  }

  preload(sound) {
    if (this.#clips !== null) this.#clips.around(sound, sound.bestS ?? 0).catch(() => {});
  }

  #take(name, sound) {
    Object.assign(this.lanes[name], { sound, clip: null });
    if (this.#context !== null) this.#mixLevels();
  }

  // Lay the stem beside the mix: its best place at the place of the mix that it fits best. Where
  // the mix plays on and that would be outside of the stem, its best place is now.
  #align(stem, placeS) {
    if (this.lanes.mix.sound === null) {
      Object.assign(this, { offsetS: 0, bestS: stem.bestS });
      if (!this.isPlaying) this.#placeS = stem.bestS;
      return;
    }
    this.bestS = stem.mixBestS ?? placeS;
    this.offsetS = stem.bestS - this.bestS;
    if (!this.isPlaying) this.#placeS = this.bestS;
    else if (placeS + this.offsetS < 0 || placeS + this.offsetS > stem.durationS - 1) {
      this.offsetS = stem.bestS - placeS;
    }
  }

  #open() {
    if (this.#context !== null) return this.#context;
    const context = new AudioContext({ sampleRate: RATE_HZ, latencyHint: "interactive" });
    const master = new GainNode(context, { gain: HEADROOM });
    master.connect(context.destination);
    for (const lane of Object.values(this.lanes)) lane.open(context, master);
    this.#clips = new Clips((bytes) => context.decodeAudioData(bytes));
    this.#context = context;
    this.#mixLevels();
    return context;
  }

  // Start both lanes at a place; what sounded before fades out.
  #start(placeS) {
    if (placeS >= this.durationS - 0.05) placeS = Math.min(this.bestS, this.durationS / 2);
    this.region = this.isLooping ? this.#regionFor() : null;
    if (this.region !== null && (placeS < this.region.startS || placeS >= this.region.startS + this.region.lengthS)) {
      placeS = this.region.startS;
    }
    const when = this.#context.currentTime + LEAD_S;
    this.#silence(when);
    for (const [name, lane] of Object.entries(this.lanes)) {
      if (lane.clip === null) continue;
      const offsetS = this.#offsetOf(name);
      const region = this.region && { ...this.region, startS: this.region.startS + offsetS };
      lane.start(placeS + offsetS, when, region);
    }
    this.#startedAt = when;
    this.#placeS = placeS;
    this.isPlaying = true;
    this.#watch();
  }

  #silence(when) {
    for (const lane of Object.values(this.lanes)) lane.silence(when);
  }

  // What is repeated: a chunk from the best place on, as long as mix and stem both have it.
  #regionFor() {
    const { mix, stem } = this.lanes;
    const clips = [mix.clip, stem.clip].filter((clip) => clip !== null);
    const lengthS = Math.min(this.loopS, ...clips.map((clip) => clip.buffer.duration));
    const { startS: fromS, endS } = clips[0];
    const startS = Math.max(fromS, Math.min(this.region?.startS ?? this.bestS, endS - lengthS));
    if (clips.length === 2) {
      const own = Math.max(stem.clip.startS, Math.min(startS + this.offsetS, stem.clip.endS - lengthS));
      this.offsetS = own - startS;
    }
    return { startS, lengthS };
  }

  #offsetOf(name) {
    return name === "stem" && this.lanes.mix.sound !== null ? this.offsetS : 0;
  }

  // A place in a lane's own time that exists.
  #within(lane, placeS) {
    const ownS = placeS + (lane === this.lanes.stem ? this.#offsetOf("stem") : 0);
    return Math.max(0, Math.min(ownS, lane.sound.durationS));
  }

  #mixLevels() {
    if (this.#context === null) return;
    const anySolo = Object.values(this.lanes).some((lane) => lane.isSolo);
    for (const lane of Object.values(this.lanes)) lane.setLevel(anySolo);
  }

  #watch() {
    const start = ++this.#starts;
    const look = () => {
      if (!this.isPlaying || start !== this.#starts) return;
      const placeS = this.placeS();
      if (this.region === null && placeS >= this.durationS) {
        this.pause();
        this.#placeS = Math.min(this.bestS, this.durationS);
        this.#tell("change");
        return;
      }
      if (this.#needsMore(placeS)) this.#renew();
      this.#tell("tick");
      requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  }

  // Whether the piece of a long sound that is loaded ends soon.
  #needsMore(placeS) {
    return Object.entries(this.lanes).some(([name, lane]) => {
      if (lane.sound === null || lane.clip === null || lane.clip.endS >= lane.sound.durationS - 0.1) return false;
      return this.region === null && placeS + this.#offsetOf(name) > lane.clip.endS - RENEW_S;
    });
  }

  async #renew() {
    if (this.#isRenewing) return;
    this.#isRenewing = true;
    try {
      await this.play(this.placeS());
    } finally {
      this.#isRenewing = false;
    }
  }

  #tell(what) {
    this.dispatchEvent(new Event(what));
  }
}
