/** Completion for fish 3.0 and newer. */

import { IMAGE_SUFFIXES, type OptionReference, type Program, type Values } from '../reference.ts';

const quoted = (text: string): string => `'${text.replaceAll(/['\\]/g, '\\$&')}'`;

/** What of `complete` offers these values. */
function offerOf(values: Values): string {
  if (typeof values !== 'string') return ` -x -a ${quoted(values.join(' '))}`;
  const offers = {
    images: " -x -a '(__vdisk_images)'",
    files: ' -r -F',
    directories: " -x -a '(__fish_complete_directories (commandline -ct))'",
    mountpoint: ' -F',
    'mount options': " -x -a '(__vdisk_mount_options)'",
    other: ' -x',
  };
  return offers[values];
}

function optionLine(start: string, { names, value, doc }: OptionReference): string {
  const given = names.map((name) => (name.startsWith('--') ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`));
  return `${start} ${given.join(' ')}${value === undefined ? '' : offerOf(value.values)} -d ${quoted(doc)}\n`;
}

/** The script, for all programs. */
export function fishCompletion(programs: readonly Program[]): string {
  const words = programs
    .flatMap(({ options }) => options.filter(({ inMountOptions }) => inMountOptions))
    .flatMap(({ names, value, doc }) => {
      const name = names[0]!.slice(2).replaceAll('-', '_');
      if (value === undefined) return [[name, doc]];
      const choices = typeof value.values === 'string' ? [''] : value.values;
      return choices.map((choice) => [`${name}=${choice}`, doc]);
    });
  return `# fish completion for ${programs.map(({ name }) => name).join(' and ')}, printed by "vdisk completion fish".

# Files whose names look like images, and directories; every file where there is none: formats are recognized by content.
function __vdisk_images
    set -l paths (__fish_complete_path (commandline -ct))
    set -l images (string match -r -i ${quoted(`.*(?:${IMAGE_SUFFIXES.map((suffix) => suffix.replace('.', '\\.')).join('|')})(?:\\t.*)?$`)} -- $paths)
    if test (count $images) -gt 0
        string match -r '.*/(?:\\t.*)?$' -- $paths
        printf '%s\\n' $images
    else
        printf '%s\\n' $paths
    end
end

# Options of mount(8), behind those that are in the list already.
function __vdisk_mount_options
    set -l before (string replace -r '[^,]*$' '' -- (commandline -ct))
    printf "$before%s\\t%s\\n"${words.map(([word, doc]) => ` \\\n        ${quoted(word!)} ${quoted(doc!)}`).join('')}
end

${programs.map(linesOf).join('\n')}`;
}

function linesOf(program: Program): string {
  const start = `complete -c ${program.name}`;
  const own = program.options.map((option) =>
    optionLine(program.commands.length === 0 ? start : `${start} -n __fish_use_subcommand`, option),
  );
  const commands = program.commands.flatMap((command) => {
    const here = `${start} -n '__fish_seen_subcommand_from ${command.name}'`;
    return [
      `${start} -n __fish_use_subcommand -a ${command.name} -d ${quoted(command.doc)}\n`,
      ...command.options.map((option) => optionLine(here, option)),
      ...operandLines(
        here,
        command.operands.map(({ values }) => values),
      ),
    ];
  });
  const operands = operandLines(
    start,
    program.operands.map(({ values }) => values),
  );
  return [`${start} -f\n`, ...own, ...commands, ...operands].join('');
}

/** Operands are not told apart by their places: all that one of them may be is offered. */
function operandLines(start: string, all: readonly Values[]): string[] {
  if (all.some((values) => values === 'files' || values === 'mountpoint')) return [`${start} -F\n`];
  return [...new Set(all.filter((values) => values !== 'other').map(offerOf))].map(
    (offer) => `${start}${offer.replace(' -x', '')}\n`,
  );
}
