/** vdisk(1) */

import type { Argv } from 'yargs';
import { type Command, referenceOfVdisk } from '../reference.ts';
import { exampleList, operandList, optionList, sentence, synopsis } from './parts.ts';
import {
  type About,
  bold,
  escaped,
  heading,
  marked,
  paragraph,
  section,
  seeAlso,
  subsection,
} from './roff.ts';

/** Every command has them: they are told once. */
const COMMON = ['--help', '--version'];

function commandPart(command: Command): string {
  const program = `vdisk ${command.name}`;
  const options = command.options.filter(({ names }) => !COMMON.includes(names[0]!));
  return subsection(
    program,
    paragraph(synopsis(program, command)),
    paragraph(sentence(command.doc)),
    operandList(command.operands),
    optionList(options),
    command.epilogue === undefined ? '' : paragraph(escaped(command.epilogue)),
    command.examples.length === 0 ? '' : paragraph('Examples:'),
    exampleList('vdisk', command.examples),
  );
}

/** The page; `declare` tells a parser the commands. */
export function vdiskPage(about: About, declare: (parser: Argv) => unknown): string {
  const program = referenceOfVdisk(declare);
  return [
    heading({ ...about, name: 'vdisk', section: 1, manual: 'Disk images' }),
    section('NAME', `vdisk \\- ${escaped(program.doc)}\n`),
    section(
      'SYNOPSIS',
      ...program.commands.map((command) => `${synopsis(`vdisk ${command.name}`, command)}\n.br\n`),
      `${bold('vdisk')} ${bold('--help')} | ${bold('--version')}\n`,
    ),
    section(
      'DESCRIPTION',
      paragraph(
        marked(
          'A disk image is a file that holds the disk of a virtual machine. `vdisk` works on such files; ' +
            'vdisk-mount(8) shows them as flat raw files instead. The formats are those of vdisk-image-formats(5). They are ' +
            'recognized by their content, never by the name of the file.',
        ),
      ),
      paragraph(
        marked(
          "Images are locked as QEMU locks them: an image that a virtual machine writes to is refused. An image's word " +
            'alone opens no parent outside of the directory tree of the first image: `--parent` and `--parent-dir` allow more.',
        ),
      ),
      paragraph(
        marked(
          'An error is one line on standard error that names the file, the place, what was expected and what was found, and ' +
            'lines below it that say what to do.',
        ),
      ),
    ),
    section('OPTIONS', paragraph('Every command takes:'), optionList(program.options)),
    section('COMMANDS', ...program.commands.map(commandPart)),
    section(
      'EXIT STATUS',
      ...(program.epilogue === undefined
        ? []
        : [paragraph(escaped(program.epilogue.replace(/^Exit status: /, '')))]),
      paragraph(escaped('Where a command has other ones, its part above says so.')),
    ),
    section(
      'EXAMPLES',
      exampleList(
        'vdisk',
        program.commands.flatMap(({ examples }) => examples.slice(0, 1)),
      ),
      paragraph('More stand with each command above.'),
    ),
    seeAlso('vdisk-mount(8)', 'vdisk-image-formats(5)', 'qemu-img(1)', 'losetup(8)'),
  ].join('');
}
