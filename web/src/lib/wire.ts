// Protobuf's encoding, as far as pprof needs it: fields one after the other, without classes made from a schema. Those
// cost an object for each message, and a profile has a million.

// WireError: the bytes are no such message, or not all of it.
export class WireError extends Error {
  constructor(
    message: string,
    // How far it was read.
    readonly at: number,
  ) {
    super(message);
    this.name = "WireError";
  }
}

// Field walks over a message's fields. What next found stands in the properties until it is called again.
export class Field {
  number = 0;
  // It has a length: bytes, text, a message or numbers in a row, from start to stop.
  packed = false;
  start = 0;
  stop = 0;
  // Else a number, in two halves of 32 bits.
  low = 0;
  high = 0;
  private at = 0;
  private end = 0;

  constructor(readonly data: Uint8Array) {
    this.end = data.length;
  }

  // over begins with the message that lies there.
  over(start: number, stop: number): this {
    this.at = start;
    this.end = stop;
    return this;
  }

  // The first byte after the field.
  get position(): number {
    return this.at;
  }

  next(): boolean {
    if (this.at >= this.end) return false;
    const begin = this.at;
    this.varint();
    const kind = this.low & 7;
    this.number = (this.low >>> 3) + this.high * 2 ** 29;
    this.packed = false;
    switch (kind) {
      case 0:
        this.varint();
        return true;
      case 2:
        this.varint();
        if (this.high > 0 || this.low > this.end - this.at) throw new WireError(`field ${this.number} at byte ${begin} is longer than what follows`, begin);
        this.packed = true;
        this.start = this.at;
        this.stop = this.at += this.low;
        return true;
      case 1:
      case 5: {
        // Fixed numbers: pprof has none, what is unknown is skipped.
        const size = kind === 1 ? 8 : 4;
        if (this.end - this.at < size) throw new WireError(`field ${this.number} at byte ${begin} is longer than what follows`, begin);
        this.at += size;
        this.number = 0;
        return true;
      }
    }
    throw new WireError(`a field of kind ${kind} at byte ${begin}`, begin);
  }

  // each calls f for each number of a repeated field, which may be packed; the number is in low and high.
  each(f: () => void): void {
    if (!this.packed) {
      f();
      return;
    }
    const { at, end, stop } = this;
    this.at = this.start;
    this.end = stop;
    while (this.at < stop) {
      this.varint();
      f();
    }
    this.at = at;
    this.end = end;
  }

  // The number as it is, and as two's complement. Exact up to 2^53.
  get unsigned(): number {
    return this.high * 2 ** 32 + this.low;
  }

  get signed(): number {
    return (this.high | 0) * 2 ** 32 + this.low;
  }

  get big(): bigint {
    return (BigInt(this.high) << 32n) | BigInt(this.low);
  }

  private varint(): void {
    const { data, end } = this;
    let at = this.at;
    let low = 0;
    let high = 0;
    let shift = 0;
    for (;;) {
      if (at >= end) throw new WireError(`a number without an end at byte ${this.at}`, this.at);
      const b = data[at++] as number;
      const bits = b & 0x7f;
      if (shift < 28) low |= bits << shift;
      else if (shift === 28) {
        low |= bits << 28;
        high = bits >>> 4;
      } else if (shift < 63) high |= bits << (shift - 32);
      else if (b > 1) throw new WireError(`a number of more than 64 bits at byte ${this.at}`, this.at);
      else high |= b << 31;
      if (b < 0x80) break;
      shift += 7;
    }
    this.at = at;
    this.low = low >>> 0;
    this.high = high >>> 0;
  }
}

// Message writes fields.
export class Message {
  private data = new Uint8Array(256);
  private count = 0;

  number(field: number, value: number): this {
    if (value !== 0) {
      this.varint(field * 8);
      this.varint(value);
    }
    return this;
  }

  numbers(field: number, values: Iterable<number>): this {
    const m = new Message();
    for (const v of values) m.varint(v);
    return this.bytes(field, m.done());
  }

  bytes(field: number, value: Uint8Array): this {
    this.varint(field * 8 + 2);
    this.varint(value.length);
    return this.raw(value);
  }

  raw(value: Uint8Array): this {
    this.room(value.length);
    this.data.set(value, this.count);
    this.count += value.length;
    return this;
  }

  done(): Uint8Array<ArrayBuffer> {
    return this.data.slice(0, this.count);
  }

  // A negative number is written as its two's complement.
  private varint(value: number): void {
    this.room(10);
    if (value >= 0 && value < 2 ** 53) {
      let rest = value;
      for (; rest >= 128; rest = Math.floor(rest / 128)) this.data[this.count++] = (rest % 128) | 0x80;
      this.data[this.count++] = rest;
      return;
    }
    let rest = BigInt.asUintN(64, BigInt(value));
    for (; rest >= 128n; rest >>= 7n) this.data[this.count++] = Number(rest & 0x7fn) | 0x80;
    this.data[this.count++] = Number(rest);
  }

  private room(bytes: number): void {
    if (this.count + bytes <= this.data.length) return;
    const grown = new Uint8Array(Math.max(this.count + bytes, this.data.length * 2));
    grown.set(this.data.subarray(0, this.count));
    this.data = grown;
  }
}
