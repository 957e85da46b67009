// Splits a GGUF file into parts, as `llama-gguf-split` names them: each has some of the
// tensors, and the first the metadata.

/** Reads numbers and strings of a GGUF header. */
class Reader {
  at = 0;

  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u32() {
    this.at += 4;
    return this.view.getUint32(this.at - 4, true);
  }

  u64() {
    this.at += 8;
    return Number(this.view.getBigUint64(this.at - 8, true));
  }

  string() {
    const length = this.u64();
    this.at += length;
    return new TextDecoder().decode(this.bytes.subarray(this.at - length, this.at));
  }

  /** Skips a value of a type. */
  skip(type) {
    if (type === 8) this.string();
    else if (type === 9) {
      const [item, count] = [this.u32(), this.u64()];
      for (let i = 0; i < count; i += 1) this.skip(item);
    } else this.at += [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][type];
  }
}

/** Writes the same. */
class Writer {
  parts = [];

  number(n, width) {
    const buffer = Buffer.alloc(width);
    if (width === 8) buffer.writeBigUInt64LE(BigInt(n));
    else buffer.writeUIntLE(n, 0, width);
    this.parts.push(buffer);
    return this;
  }

  string(text) {
    const bytes = Buffer.from(text);
    this.number(bytes.length, 8).parts.push(bytes);
    return this;
  }

  raw(bytes) {
    this.parts.push(bytes);
    return this;
  }

  bytes() {
    return Buffer.concat(this.parts);
  }
}

const ALIGNMENT = 32;
const aligned = (n) => Math.ceil(n / ALIGNMENT) * ALIGNMENT;

/** Returns the parts of a file whose alignment is the default, of `count` parts. */
export function split(file, count) {
  const reader = new Reader(file);
  reader.at = 4;
  const version = reader.u32();
  const [nTensors, nMetadata] = [reader.u64(), reader.u64()];
  const metadataStart = reader.at;
  for (let i = 0; i < nMetadata; i += 1) {
    reader.string();
    reader.skip(reader.u32());
  }
  const metadata = file.subarray(metadataStart, reader.at);
  const tensors = Array.from({ length: nTensors }, () => {
    const name = reader.string();
    const shape = Array.from({ length: reader.u32() }, () => reader.u64());
    return { name, shape, type: reader.u32(), offset: reader.u64() };
  });
  const dataStart = aligned(reader.at);
  const ends = tensors.map(({ offset }) => offset).concat(file.length - dataStart).sort((a, b) => a - b);
  for (const tensor of tensors) {
    const end = ends.find((end) => end > tensor.offset);
    tensor.data = file.subarray(dataStart + tensor.offset, dataStart + end);
  }
  const each = Math.ceil(nTensors / count);
  return Array.from({ length: count }, (_, no) => {
    const own = tensors.slice(no * each, (no + 1) * each);
    const out = new Writer().raw(Buffer.from("GGUF")).number(version, 4).number(own.length, 8);
    out.number((no === 0 ? nMetadata : 0) + 3, 8);
    if (no === 0) out.raw(metadata);
    // u16, u16 and i32.
    out.string("split.no").number(2, 4).number(no, 2);
    out.string("split.count").number(2, 4).number(count, 2);
    out.string("split.tensors.count").number(5, 4).number(nTensors, 4);
    let offset = 0;
    for (const { name, shape, type, data } of own) {
      out.string(name).number(shape.length, 4);
      for (const n of shape) out.number(n, 8);
      out.number(type, 4).number(offset, 8);
      offset += aligned(data.length);
    }
    const pad = (length) => Buffer.alloc(aligned(length) - length);
    out.raw(pad(out.bytes().length));
    for (const { data } of own) out.raw(data).raw(pad(data.length));
    return out.bytes();
  });
}
