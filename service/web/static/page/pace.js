// How many points a frame may have, from how long frames take.

const LEAST = 50_000;
const START = 300_000;
const SLOW_MS = 36;
const QUICK_MS = 22;

/** Keeps the number of points that are drawn in one frame where some thirty frames a second are possible. */
export class Pace {
  constructor() {
    this._budget = START;
    this._last = this._frames = 0;
    this.fps = 0;
    /** Whether even the fewest points take too long, so that pixels must be saved while the view moves. */
    this.coarse = false;
  }

  /** Return how many points to draw in the frame that begins now; `moving`: it is drawn anew, not added to. */
  next(now, count, moving) {
    const took = now - this._last;
    this.running = this._last > 0;
    // Additions are not waited for, so how quickly they follow each other says nothing.
    const comparable = moving && this._moving;
    this._moving = moving;
    if (this.running && comparable && took < 5000) {
      if (took > 2 * SLOW_MS && this._budget <= LEAST) this.coarse = true;
      if (took > SLOW_MS) this._budget = Math.max(LEAST, this._budget * Math.max(0.25, SLOW_MS / took));
      else if (took < QUICK_MS && this._budget < count) this._budget = this._budget * 1.2;
      this.fps = this._frames++ ? 0.9 * this.fps + 0.1 * (1000 / took) : 1000 / took;
    }
    this._last = now;
    return Math.round(Math.min(this._budget, count));
  }

  /** The picture is complete: the time until the next frame says nothing. */
  rest() {
    this._last = this._frames = 0;
  }
}
