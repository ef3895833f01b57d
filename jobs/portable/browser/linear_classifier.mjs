/**
 * Linear classifier next to the network (`model.linear`), over words and pairs of adjacent words.
 *
 * The scores of a text are `bias + sum(weights) / sqrt(sum(squares))`, of the rows of its words and pairs, multiplied by
 * the scale of the label; `jobs.model.linear.tensors` describes the tensors.
 */

import { Matrix } from "./tensors.mjs";

/** @typedef {{ row: number, start: number, end: number }} Term a row, and the tokens from start to before end */

export class LinearClassifier {
  #words;
  #pairs; // the ids of the two words of each pair, ascending
  #weight;
  #squares;
  #scales; // of each label

  /** Bias of each label, multiplied by its scale. */
  bias;

  /**
   * @param {{ words: number, pairs: number }} rows numbers of words and pairs that have a row, words first
   * @param {number} labels their number
   * @param {import("./tensors.mjs").Tensors} tensors
   */
  constructor({ words, pairs }, labels, tensors) {
    const read = (name, columns) => new Matrix(tensors, name, 1, columns).toFloats();
    this.#words = words;
    this.#pairs = new Matrix(tensors, "linear.pairs", pairs, 2).values;
    this.#weight = new Matrix(tensors, "linear.weight", words + pairs, labels);
    this.#squares = read("linear.squares", words + pairs);
    this.#scales = read("linear.scale", labels);
    this.bias = read("linear.bias", labels).map((bias, label) => bias * this.#scales[label]);
  }

  /**
   * Add the scores of a text, without the bias.
   * @param {number[]} ids of its words
   * @param {number[]} scores of the labels
   */
  addScores(ids, scores) {
    const terms = this.#findTerms(ids), factor = this.#normalize(terms);
    const sums = new Float64Array(scores.length), row = new Float32Array(scores.length);
    for (const term of terms) {
      this.#weight.readRow(term.row, row, 0);
      for (let label = 0; label < row.length; label++) sums[label] += row[label];
    }
    for (let label = 0; label < row.length; label++) scores[label] += factor * this.#scales[label] * sums[label];
  }

  /**
   * Return what the words and pairs of a text contribute to the score of a label.
   * @param {number[]} ids
   * @param {number} label its index
   * @returns {{ start: number, end: number, share: number }[]} with the tokens from start to before end
   */
  explain(ids, label) {
    const terms = this.#findTerms(ids), factor = this.#normalize(terms);
    const row = new Float32Array(this.#weight.columns);
    return terms.map((term) => {
      this.#weight.readRow(term.row, row, 0);
      return { start: term.start, end: term.end, share: factor * this.#scales[label] * row[label] };
    });
  }

  /** Return the words and pairs of a text that have a row. @returns {Term[]} */
  #findTerms(ids) {
    const terms = [];
    ids.forEach((id, index) => {
      if (id >= this.#words) return;
      terms.push({ row: id, start: index, end: index + 1 });
      const pair = index ? this.#findPair(ids[index - 1], id) : -1;
      if (pair >= 0) terms.push({ row: this.#words + pair, start: index - 1, end: index + 1 });
    });
    return terms;
  }

  /** Return the index of a pair of words, -1 if it has no row. */
  #findPair(first, second) {
    let [low, high] = [0, this.#pairs.length / 2];
    while (low < high) {
      const middle = (low + high) >> 1;
      const order = this.#pairs[2 * middle] - first || this.#pairs[2 * middle + 1] - second;
      if (order === 0) return middle;
      if (order < 0) low = middle + 1;
      else high = middle;
    }
    return -1;
  }

  /** Return the factor of a text's weights. */
  #normalize(terms) {
    const total = terms.reduce((sum, term) => sum + this.#squares[term.row], 0);
    return total > 0 ? 1 / Math.sqrt(total) : 0;
  }
}
