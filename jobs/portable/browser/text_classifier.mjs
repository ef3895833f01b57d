/**
 * Text classifier in the page: reads a folder that `finetune-cnn export --browser` has written. Texts stay in the page.
 *
 *     import { load } from "./text_classifier.mjs";
 *     const classifier = await load("tickets/");
 *     classifier.predict("Where is my parcel?", { topK: 3 }); // [{ label, score }, ...], the best first
 */

import { LinearClassifier } from "./linear_classifier.mjs";
import { Matrix, readTensors } from "./tensors.mjs";
import { Tokenizer } from "./tokenizer.mjs";

/** @typedef {{ label: string, score: number }} Prediction a label and its probability */

/**
 * @typedef {{ text: string, share: number }} Phrase tokens of a text, and what they contribute to a label's score
 * @typedef {{ score: number, bias: number, phrases: Phrase[] }} Explanation
 *     The score (logit) of a label is the sum of the bias and of the shares of the phrases; the largest share is first.
 */

const FORMAT = 2;
const PADDING = 0, UNKNOWN = 1;
const MAX_CACHE_BYTES = 32 << 20;

/**
 * Return the classifier of a folder.
 * @param {string | URL} [folder] its address, relative to the page; by default the folder of this module
 * @returns {Promise<TextClassifier>}
 * @throws {Error} a file is missing, or is not of this format
 */
export async function load(folder = new URL(".", import.meta.url)) {
  const base = new URL(String(folder).replace(/\/?$/, "/"), globalThis.document?.baseURI ?? import.meta.url);
  // Revalidated, since its version of the model must be that of the weights.
  const model = await (await request(new URL("classifier.json", base), { cache: "no-cache" })).json();
  if (model.format !== FORMAT) throw new Error(`classifier.json has format ${model.format}; this reader needs ${FORMAT}`);
  // The version of the model in the address: a cache must not return the weights of another one.
  const weights = new URL(`weights.safetensors?version=${encodeURIComponent(model.checkpoint)}`, base);
  return new TextClassifier(model, readTensors(await (await request(weights)).arrayBuffer()));
}

/** Classifier of texts, which `load` returns. */
export class TextClassifier {
  #model;
  #tokenizer;
  #ids;
  #channels;
  #filters;
  #output;
  #linear = null; // that next to the network, if there is one
  #projections = new Map(); // of words, the oldest first
  #last = { text: null }; // the last text, and what `#read` returned

  /**
   * @param {object} model the content of classifier.json
   * @param {import("./tensors.mjs").Tensors} tensors
   */
  constructor(model, tensors) {
    const { filter_widths: widths, feature_maps: maps, labels, words, channels } = model;
    this.#model = model;
    this.#tokenizer = new Tokenizer(model);
    this.#ids = new Map(words.map((word, index) => [word, index + UNKNOWN + 1]));
    this.#channels = channels.map((name) => new Matrix(tensors, name, words.length + UNKNOWN + 1));
    const dimensions = this.#channels.reduce((total, channel) => total + channel.columns, 0);
    const read = (name, rows, columns) => new Matrix(tensors, name, rows, columns).toFloats();
    this.#filters = {
      matrices: widths.map((width, index) => read(`filters.${index}`, width * maps, dimensions)),
      biases: widths.flatMap((_, index) => [...read(`biases.${index}`, 1, maps)]),
      columns: widths.reduce((total, width) => total + width * maps, 0),
    };
    this.#output = {
      weight: read("output.weight", labels.length, widths.length * maps),
      bias: read("output.bias", 1, labels.length),
    };
    if (model.linear) {
      this.#linear = new LinearClassifier(model.linear, labels.length, tensors);
      this.#output.bias = this.#output.bias.map((bias, index) => bias + this.#linear.bias[index]);
    }
  }

  /** Name of the model. @returns {string} */
  get name() {
    return this.#model.name;
  }

  /** All labels. @returns {string[]} */
  get labels() {
    return [...this.#model.labels];
  }

  /** Whether a text may have several labels, or none. @returns {boolean} */
  get isMultiLabel() {
    return this.#model.multi_label;
  }

  /**
   * Return labels with their probabilities, the best first; with several labels per text they do not add up to 1.
   * @param {string} text
   * @param {{ topK?: number }} [options] topK: number of labels, at least 1; all by default
   * @returns {Prediction[]}
   */
  predict(text, { topK = this.#model.labels.length } = {}) {
    if (!Number.isInteger(topK) || topK < 1) throw new RangeError(`topK must be an integer of at least 1, not ${topK}`);
    return this.#rank(text).slice(0, topK).map(([index, score]) => ({ label: this.#model.labels[index], score }));
  }

  /**
   * Return the labels of a text, the best first: those with at least the score of their thresholds, which may be none.
   * With one label per text it is the best one.
   * @param {string} text
   * @returns {string[]}
   */
  predictLabels(text) {
    const ranked = this.#rank(text);
    const thresholds = this.#model.label_thresholds;
    const selected = ranked.filter(
      ([index, score], rank) => (this.isMultiLabel ? score >= thresholds[index] : rank === 0),
    );
    return selected.map(([index]) => this.#model.labels[index]);
  }

  /**
   * Return the phrases that a label's score comes from, in the spelling of the vocabulary.
   * @param {string} text
   * @param {string} label
   * @returns {Explanation}
   */
  explain(text, label) {
    const { labels, filter_widths: widths, feature_maps: maps } = this.#model;
    const row = labels.indexOf(label);
    if (row < 0) throw new RangeError(`there is no label '${label}'`);
    const { tokens, features, starts, ids } = this.#read(text);
    const shares = new Map(); // by the phrase's first token and the one after its last
    const add = (start, end, share) => shares.set(`${start},${end}`, (shares.get(`${start},${end}`) ?? 0) + share);
    features.forEach((feature, index) => {
      const end = Math.min(starts[index] + widths[Math.floor(index / maps)], tokens.length);
      add(Math.max(starts[index], 0), end, feature * this.#output.weight[row * features.length + index]);
    });
    for (const { start, end, share } of this.#linear?.explain(ids, row) ?? []) add(start, end, share);
    const phrases = [...shares]
      .filter(([, share]) => share !== 0)
      .map(([key, share]) => ({ text: tokens.slice(...key.split(",").map(Number)).join(" "), share }))
      .sort((first, second) => Math.abs(second.share) - Math.abs(first.share));
    const bias = this.#output.bias[row];
    return { score: phrases.reduce((sum, phrase) => sum + phrase.share, bias), bias, phrases };
  }

  /** Return the index and the probability of each label, the best first. */
  #rank(text) {
    const { temperature, labels } = this.#model;
    const { features, ids } = this.#read(text);
    const { weight, bias } = this.#output;
    const scores = labels.map((_, row) => dot(weight, row * features.length, features) + bias[row]);
    this.#linear?.addScores(ids, scores);
    const logits = scores.map((score) => score / temperature);
    const highest = logits.reduce((highest, logit) => Math.max(highest, logit));
    const exponentials = logits.map((logit) => Math.exp(this.isMultiLabel ? -logit : logit - highest));
    const total = exponentials.reduce((sum, value) => sum + value, 0);
    const shares = exponentials.map((value) => Math.fround(this.isMultiLabel ? 1 / (1 + value) : value / total));
    return [...shares.entries()].sort((first, second) => second[1] - first[1]);
  }

  /** Return the tokens of a text, their word ids, and what `#convolve` returns. */
  #read(text) {
    if (typeof text !== "string") throw new TypeError(`a text is a string, not ${typeof text}`);
    if (text !== this.#last.text) {
      const tokens = this.#tokenizer.tokenize(text);
      const ids = this.#encode(tokens);
      this.#last = { text, tokens, ids, ...this.#convolve(ids) };
    }
    return this.#last;
  }

  /** Return the word ids of a text; the empty text is one word of padding. */
  #encode(tokens) {
    return tokens.length ? tokens.map((token) => this.#ids.get(token) ?? UNKNOWN) : [PADDING];
  }

  /** Return each filter's maximum over a text's windows after ReLU, and the token at which that window starts. */
  #convolve(ids) {
    const { filter_widths: widths, feature_maps: maps } = this.#model;
    const maxima = new Float32Array(widths.length * maps).fill(-Infinity), starts = new Int32Array(maxima.length);
    const sums = new Float32Array(maps);
    for (let start = 1 - Math.max(...widths); start < ids.length; start++) {
      let column = 0; // of a projection: for each width, for each position, the products with all filters
      widths.forEach((width, index) => {
        sums.fill(0);
        for (let position = Math.max(0, -start); position < width && start + position < ids.length; position++) {
          const row = this.#project(ids[start + position]);
          for (let map = 0; map < maps; map++) sums[map] += row[column + position * maps + map];
        }
        column += width * maps;
        if (start + width <= 0) return; // the window ends before the text
        for (let map = 0, filter = index * maps; map < maps; map++, filter++) {
          if (sums[map] <= maxima[filter]) continue;
          maxima[filter] = sums[map];
          starts[filter] = start;
        }
      });
    }
    return { features: maxima.map((value, filter) => Math.max(value + this.#filters.biases[filter], 0)), starts };
  }

  /** Return the products of a word with all filters. */
  #project(id) {
    let row = this.#projections.get(id);
    if (row) return row;
    const vector = new Float32Array(this.#channels.reduce((total, channel) => total + channel.columns, 0));
    let offset = 0;
    for (const channel of this.#channels) {
      channel.readRow(id, vector, offset);
      offset += channel.columns;
    }
    row = new Float32Array(this.#filters.columns);
    let column = 0;
    for (const matrix of this.#filters.matrices) {
      multiply(matrix, vector, row, column);
      column += matrix.length / vector.length;
    }
    if (this.#projections.size * row.byteLength > MAX_CACHE_BYTES) {
      this.#projections.delete(this.#projections.keys().next().value);
    }
    this.#projections.set(id, row);
    return row;
  }
}

/** Return the product of a vector with as many numbers of an array from an index on. */
function dot(array, start, vector) {
  let sum = 0;
  for (let index = 0; index < vector.length; index++) sum += array[start + index] * vector[index];
  return sum;
}

/** Write the products of a matrix's rows with a vector from an index on: four at a time, in less than half of the time. */
function multiply(matrix, vector, target, offset) {
  const length = vector.length, end = offset + matrix.length / length;
  let start = 0;
  for (; offset + 4 <= end; offset += 4, start += 4 * length) {
    let [first, second, third, fourth] = [0, 0, 0, 0];
    for (let index = 0; index < length; index++) {
      const factor = vector[index], position = start + index;
      first += matrix[position] * factor;
      second += matrix[position + length] * factor;
      third += matrix[position + 2 * length] * factor;
      fourth += matrix[position + 3 * length] * factor;
    }
    target[offset] = first;
    target[offset + 1] = second;
    target[offset + 2] = third;
    target[offset + 3] = fourth;
  }
  for (; offset < end; offset++, start += length) target[offset] = dot(matrix, start, vector);
}

async function request(url, options = {}) {
  const response = await fetch(url, options);
  if (!response.ok) throw new Error(`${url.pathname}: ${response.status} ${response.statusText}`);
  return response;
}
