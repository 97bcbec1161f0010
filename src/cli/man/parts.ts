/** The parts that man pages of programs have in common, from what the program takes (reference.ts). */

import type { Command, Example, Operand, OptionReference } from '../reference.ts';
import { bold, escaped, italic, type Tagged, tagged } from './roff.ts';

/** A text as a sentence, escaped. It begins as it is where that is one of `words`, or a list of words. */
export function sentence(text: string, words: readonly string[] = []): string {
  const [first = ''] = text.split(' ', 1);
  const isWord = words.includes(first.replace(/:$/, '')) || /,./.test(first) || first.startsWith('-');
  const begun = isWord ? text : text.charAt(0).toUpperCase() + text.slice(1);
  return escaped(/[.:…?!]$/.test(begun) ? begun : `${begun}.`);
}

/** The names of an option with its value: "--format vhd|raw". */
export function optionTag({ names, value }: OptionReference): string {
  const after = value === undefined ? '' : ` ${valueText(value.shown)}`;
  return `${names.map(bold).join(', ')}${after}`;
}

/** Words to choose from are bold, what stands for something is italic. */
const valueText = (shown: string): string =>
  shown.includes('|') ? shown.split('|').map(bold).join('|') : italic(shown);

export function optionList(options: readonly OptionReference[]): string {
  const items = options.map((option): Tagged => {
    const otherwise = option.default === undefined ? '' : ` Default: ${option.default}.`;
    const needed = option.isRequired ? ' It must be given.' : '';
    const words = typeof option.value?.values === 'object' ? option.value.values : [];
    return { tag: optionTag(option), text: `${sentence(option.doc, words)}${escaped(otherwise)}${needed}` };
  });
  return tagged(items);
}

export function operandText({ name, isOptional, isRepeated }: Operand): string {
  const text = `${italic(name.toUpperCase())}${isRepeated ? '\\ ...' : ''}`;
  return isOptional ? `[${text}]` : text;
}

/** "vdisk info [options] IMAGES ..." */
export function synopsis(program: string, { operands }: Pick<Command, 'operands'>): string {
  return [bold(program), `[${italic('options')}]`, ...operands.map(operandText)].join(' ');
}

export function operandList(operands: readonly Operand[]): string {
  const items = operands.map(({ name, doc, values }): Tagged => {
    const words = typeof values === 'string' ? '' : `: ${values.map(bold).join(', ')}`;
    return { tag: italic(name.toUpperCase()), text: `${sentence(doc).replace(/\.$/, '')}${words}.` };
  });
  return tagged(items);
}

export function exampleList(program: string, examples: readonly Example[]): string {
  return tagged(
    examples.map(({ command, doc }) => ({
      tag: bold(command.replaceAll('$0', program)),
      text: sentence(doc),
    })),
  );
}
