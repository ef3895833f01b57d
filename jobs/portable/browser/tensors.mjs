/** Tensors of a safetensors file, plain and quantized ones. */

/** @typedef {Map<string, { values: Float32Array | Int32Array | Uint8Array, shape: number[] }>} Tensors by name */

const ARRAYS = { F32: Float32Array, I32: Int32Array, U8: Uint8Array };

/** Matrix of float32, or of quantized numbers as `jobs.model.checkpoint_tensors` describes them. */
export class Matrix {
  #steps;
  #bits;

  constructor(tensors, name, rows, columns) {
    const layout = tensors.get(`${name}.layout`)?.values;
    const { values, shape } = tensors.get(layout ? `${name}.codes` : name) ?? { shape: [] };
    this.rows = rows;
    this.columns = layout ? layout[1] : shape.at(-1);
    this.values = values; // codes, if it is quantized
    this.#bits = layout?.[0];
    this.#steps = tensors.get(`${name}.steps`)?.values;
    const size = rows * (layout ? Math.ceil((this.columns * this.#bits) / 8) : this.columns);
    const isComplete = values?.length === size && (!layout || this.#steps?.length === rows);
    if (!isComplete || (columns ?? this.columns) !== this.columns) {
      throw new Error(`weights.safetensors: ${name} does not fit classifier.json`);
    }
  }

  /** Write the numbers of a row into an array, from an index on. */
  readRow(row, target, offset) {
    if (!this.#steps) {
      target.set(this.values.subarray(row * this.columns, (row + 1) * this.columns), offset);
      return;
    }
    const bits = this.#bits, center = 2 ** (bits - 1) - 0.5, step = this.#steps[row];
    let index = (this.values.length / this.rows) * row;
    let [rest, restBits] = [0, 0]; // of the bytes that were read
    for (let column = 0; column < this.columns; column++) {
      if (restBits < bits) [rest, restBits] = [(rest << 8) | this.values[index++], restBits + 8];
      restBits -= bits;
      target[offset + column] = ((rest >> restBits) - center) * step;
      rest &= (1 << restBits) - 1;
    }
  }

  /** Return the numbers of all rows, one row after the other. */
  toFloats() {
    const floats = new Float32Array(this.rows * this.columns);
    for (let row = 0; row < this.rows; row++) this.readRow(row, floats, row * this.columns);
    return floats;
  }
}

/** Return the tensors of a safetensors file: the size of a header, the header in JSON, and the numbers. */
export function readTensors(buffer) {
  const start = 8 + Number(new DataView(buffer).getBigUint64(0, true));
  const { __metadata__: _, ...header } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, start - 8)));
  const tensors = new Map();
  for (const [name, { dtype, shape, data_offsets: [first, end] }] of Object.entries(header)) {
    const length = (end - first) / ARRAYS[dtype].BYTES_PER_ELEMENT;
    tensors.set(name, { values: new ARRAYS[dtype](buffer, start + first, length), shape });
  }
  return tensors;
}
