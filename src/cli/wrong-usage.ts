/** What is wrong with a command line, in words: yargs counts "non-option arguments", and names one reason of several. */

import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import type { Command, OptionReference, Program } from './reference.ts';

/** Two words of which one is probably the other mistyped. */
const NEAR = 2;

/**
 * The error for `words`, of which yargs said `message`. Its hint tells where the right usage is found, and what was meant
 * probably.
 */
export function wrongUsage(message: string, words: readonly string[], program: Program): ImageError {
  const at = words.findIndex((word) => !word.startsWith('-'));
  const name = words[at];
  if (name === undefined) return usage(message, 'See vdisk --help.');
  const command = program.commands.find((candidate) => candidate.name === name);
  if (command === undefined) {
    const names = program.commands.map((candidate) => candidate.name);
    return usage(`${shownPath(name)}: is no command`, `${meant('vdisk ', name, names)}See vdisk --help.`);
  }
  const rest = [...words.slice(0, at), ...words.slice(at + 1)];
  const end = rest.includes('--') ? rest.indexOf('--') : rest.length;
  for (const word of rest.slice(0, end)) {
    const option = unknownOption(word, command.options);
    if (option === undefined) continue;
    const names = command.options.flatMap((known) => known.names).filter((known) => known.startsWith('--'));
    return usage(
      `${name} has no option ${shownPath(option)}`,
      `${meant('', option, names)}See vdisk ${name} --help.`,
    );
  }
  return usage(`${name}: ${reason(message, command)}`, `See vdisk ${name} --help.`);
}

const usage = (message: string, hint: string): ImageError => new ImageError('usage', message, { hint });

/** `word`, as far as it is the name of an option, where none of `options` has it. */
function unknownOption(word: string, options: readonly OptionReference[]): string | undefined {
  const known = (name: string): OptionReference | undefined =>
    options.find(({ names }) => names.includes(name));
  if (word.startsWith('--')) {
    const [name] = word.split('=', 1) as [string];
    const positive = name.replace(/^--no-/, '--');
    return known(name) === undefined && known(positive) === undefined ? name : undefined;
  }
  if (!/^-[^\d]/.test(word)) return undefined;
  // "-rf" is "-r -f", up to one that takes a value.
  for (const letter of word.slice(1)) {
    const option = known(`-${letter}`);
    if (option === undefined) return `-${letter}`;
    if (option.value !== undefined) return undefined;
  }
  return undefined;
}

function reason(message: string, { name, operands, options }: Command): string {
  const shown = operands.map(({ name: operand, isOptional, isRepeated }) => {
    const text = `${operand}${isRepeated ? '...' : ''}`;
    return isOptional ? `[${text}]` : `<${text}>`;
  });
  const whole = ['vdisk', name, ...shown].join(' ');
  if (message.startsWith('Not enough non-option')) return `more is needed: ${whole}`;
  const [, extra] = /^Unknown arguments?: (.*)$/s.exec(message) ?? [];
  if (extra !== undefined) return `${shownPath(extra)}: is too much: ${whole}`;
  const [, missing] = /^Missing required arguments?: (.*)$/s.exec(message) ?? [];
  if (missing !== undefined) {
    const names = missing
      .split(', ')
      .map((word) => options.find((o) => o.names.includes(`--${word}`))?.names[0] ?? word);
    return `${names.join(', ')} is needed`;
  }
  const [, argument, given, choices] =
    /^Invalid values: *Argument: (\S+), Given: "(.*?)", Choices: (.*)$/s.exec(message) ?? [];
  if (argument === undefined || choices === undefined) return message;
  const option = options.find(({ names }) => names.includes(`--${argument}`));
  const known = choices.replaceAll('"', '');
  return `${option === undefined ? argument : `--${argument}`}: "${shownPath(given!)}" is none of ${known}`;
}

/** "Is it --json? " */
function meant(before: string, word: string, known: readonly string[]): string {
  const [best] = known
    .map((name) => ({ name, far: distance(word, name) }))
    .filter(({ name, far }) => far <= NEAR && far < name.length / 2)
    .sort((a, b) => a.far - b.far);
  return best === undefined ? '' : `Is it ${before}${best.name}? `;
}

/** How many letters are to be put in, left out or changed to make one of the other. */
function distance(one: string, two: string): number {
  let row = Array.from({ length: two.length + 1 }, (_, n) => n);
  for (let i = 1; i <= one.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= two.length; j += 1) {
      const change = row[j - 1]! + (one[i - 1] === two[j - 1] ? 0 : 1);
      next.push(Math.min(change, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[two.length]!;
}
