import { describe, expect, it } from 'vitest';
import yargs, { type Argv } from 'yargs';
import { mountHelp } from '../../../src/cli/mount-help.ts';
import { type Program, referenceOfMount, referenceOfVdisk } from '../../../src/cli/reference.ts';
import { commandsDeclared } from '../../../src/cli/vdisk.ts';

const declareCommands = await commandsDeclared();

/** The long options in a help text. */
const shownIn = (help: string): string[] =>
  [...help.matchAll(/^ +(?:-\w, )?(?:--[\w-]+, )*(?:-\w, )?--([\w-]+)/gm)]
    .map(([, name]) => `--${name}`)
    .sort();
const longOnes = ({ options }: Pick<Program, 'options'>): string[] =>
  options.flatMap(({ names }) => names.filter((name) => name.startsWith('--'))).sort();

/** What vdisk prints for these words, which must only ask for help. */
function helpOf(...words: string[]): Promise<string> {
  const parser = yargs([]);
  declareCommands(parser);
  return new Promise((resolve) => {
    parser.parse([...words, '--help'], {}, (_problem: unknown, _parsed: unknown, text: string) =>
      resolve(text),
    );
  });
}

describe('what the reference says of vdisk', () => {
  const program = referenceOfVdisk(declareCommands);

  it('has the commands of the help, and some', async () => {
    const shown = [...(await helpOf()).matchAll(/^ +vdisk ([\w-]+)/gm)].map(([, name]) => name);
    expect(program.commands.map(({ name }) => name)).toEqual(shown);
    expect(shown).toEqual(expect.arrayContaining(['info', 'check', 'hash', 'verify', 'completion']));
  });

  it.each(program.commands)('has the options of vdisk $name --help', async (command) => {
    expect(longOnes(command)).toEqual(shownIn(await helpOf(command.name)));
  });

  it.each(program.commands)('has a text for all that $name takes, and an example', (command) => {
    const docs = [command.doc, ...[...command.options, ...command.operands].map(({ doc }) => doc)];
    expect(docs.filter((doc) => doc === '')).toEqual([]);
    expect(command.examples.length).toBeGreaterThan(0);
  });

  it('has values, aliases and operands', () => {
    const info = program.commands.find(({ name }) => name === 'info')!;
    const option = (name: string) => info.options.find(({ names }) => names.includes(name))!;
    expect(option('--format').value?.values).toEqual(['vhd', 'vhdx', 'vdi', 'qed', 'raw']);
    expect(option('-U').names).toEqual(['--force-share', '-U']);
    expect(option('-U').value).toBeUndefined();
    expect(option('--parent')).toMatchObject({
      value: { shown: 'PATH', values: 'images' },
      isRepeatable: true,
    });
    expect(option('--parent-dir').value?.values).toBe('directories');
    expect(info.operands).toEqual([
      { name: 'images', doc: 'image files', values: 'images', isOptional: false, isRepeated: true },
    ]);
    const verify = program.commands.find(({ name }) => name === 'verify')!;
    expect(verify.operands[0]).toMatchObject({ name: 'record', values: 'files', isRepeated: false });
  });

  it('does not pass over what it does not know', () => {
    const build = (parser: Argv): void => {
      parser.command('x', 'a command', (command) => void command.completion());
    };
    expect(() => referenceOfVdisk(build)).toThrow(/completion\(\)/);
    const wrong = (parser: Argv): void => {
      parser.command('x <a>', 'a command', (command) => void command.positional('b', { describe: 'b' }));
    };
    expect(() => referenceOfVdisk(wrong)).toThrow(/no operand b/);
  });
});

describe('what the reference says of vdisk-mount', () => {
  it('has the options of the help, and their short names', async () => {
    const program = referenceOfMount();
    const help = await mountHelp();
    expect(longOnes(program)).toEqual(shownIn(help));
    for (const { names } of program.options) {
      for (const name of names) expect(help, name).toMatch(new RegExp(`(^|[ ,])${name}\\b`, 'm'));
    }
  });
});
