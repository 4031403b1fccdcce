// One of the two things that play: what sounds, how loud, and when it begins.

const FADE_S = 0.008;
const SILENT_DB = -36;

export class Lane {
  sound = null; // {url, durationS, peaks, servedGain}
  clip = null; // what is loaded of it
  db = 0;
  isMuted = false;
  isSolo = false;
  #context = null;
  #level = null;
  #meter = null;
  #source = null;
  #envelope = null;

  open(context, destination) {
    this.#context = context;
    this.#meter = new AnalyserNode(context, { fftSize: 4096 });
    this.#level = new GainNode(context);
    this.#meter.connect(this.#level).connect(destination);
  }

  // What is being played at this instant, whatever the gain: the newest sample last.
  samples() {
    if (this.#meter === null) return null;
    const found = new Float32Array(this.#meter.fftSize);
    this.#meter.getFloatTimeDomainData(found);
    return found;
  }

  // Begin at a place of the sound's own time, at a time of the context; `region` repeats.
  start(placeS, when, region) {
    const at = placeS - this.clip.startS;
    if (at >= this.clip.buffer.duration) return; // behind its end: silence
    const source = new AudioBufferSourceNode(this.#context, { buffer: this.clip.buffer });
    if (region !== null) {
      const loopStart = region.startS - this.clip.startS;
      Object.assign(source, { loop: true, loopStart, loopEnd: loopStart + region.lengthS });
    }
    const envelope = new GainNode(this.#context, { gain: 0 });
    envelope.gain.setValueAtTime(0, when);
    envelope.gain.linearRampToValueAtTime(1, when + FADE_S);
    source.connect(envelope).connect(this.#meter);
    if (at >= 0) source.start(when, at);
    else source.start(when - at, 0); // it begins later than this place
    this.#source = source;
    this.#envelope = envelope;
  }

  silence(when) {
    if (this.#source === null) return;
    this.#envelope.gain.cancelScheduledValues(when);
    this.#envelope.gain.setTargetAtTime(0, when, FADE_S / 3);
    this.#source.stop(when + 2 * FADE_S);
    this.#source = null;
  }

  setLevel(anySolo) {
    const isHeard = !this.isMuted && (this.isSolo || !anySolo) && this.db > SILENT_DB;
    const gain = isHeard ? 10 ** (this.db / 20) / (this.sound?.servedGain ?? 1) : 0;
    this.#level.gain.setTargetAtTime(gain, this.#context.currentTime, 0.01);
  }
}
