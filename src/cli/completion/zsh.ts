/** Completion for zsh, with its own `_arguments`. */

import {
  type Command,
  IMAGE_SUFFIXES,
  type OptionReference,
  type Program,
  type Values,
} from '../reference.ts';

const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

/** Within a specification ":" ends a part, and "]" a description. */
const plain = (text: string): string => text.replaceAll(/[\\:[\]]/g, '\\$&');

function actionOf(values: Values): string {
  if (typeof values !== 'string') return `(${values.join(' ')})`;
  const actions = {
    images: '_vdisk_images',
    files: '_files',
    directories: '_files -/',
    mountpoint: '_files',
    'mount options': '_vdisk_mount_options',
    other: ' ',
  };
  return actions[values];
}

/** "--format[doc]:FORMAT:(vhd vhdx)", once for each of its names, of which one shuts out the others. */
function optionSpecs({ names, value, doc, isRepeatable }: OptionReference): string[] {
  const shutOut = isRepeatable ? '*' : `(${names.join(' ')})`;
  const after = value === undefined ? '' : `:${plain(value.shown)}:${actionOf(value.values)}`;
  return names.map((name) => {
    const joined = value === undefined ? '' : name.startsWith('--') ? '=' : '+';
    return quoted(`${shutOut}${name}${joined}[${plain(doc)}]${after}`);
  });
}

function argumentsOf({ options, operands }: Command): string {
  const repeated = operands.findIndex(({ isRepeated }) => isRepeated);
  const ofOperands = operands.flatMap(({ name, values, isOptional }, at) => {
    // Behind one that is repeated nobody knows which one it is: the last one takes the others in as well.
    if (repeated >= 0 && at > repeated)
      return at === operands.length - 1 ? [`*:${plain(name)}:${actionOf(values)}`] : [];
    if (at === repeated && at === operands.length - 1) return [`*:${plain(name)}:${actionOf(values)}`];
    return [`${at + 1}:${isOptional ? ':' : ''}${plain(name)}:${actionOf(values)}`];
  });
  return [...options.flatMap(optionSpecs), ...ofOperands.map(quoted)]
    .map((spec) => ` \\\n        ${spec}`)
    .join('');
}

/** The script, for all programs: to be sourced after compinit, or put as _vdisk into a directory of fpath. */
export function zshCompletion(programs: readonly Program[]): string {
  const words = programs
    .flatMap(({ options }) => options.filter(({ inMountOptions }) => inMountOptions))
    .map(({ names, value, doc }) => {
      const name = `${names[0]!.slice(2).replaceAll('-', '_')}[${plain(doc)}]`;
      return quoted(value === undefined ? name : `${name}:${plain(value.shown)}:${actionOf(value.values)}`);
    });
  const ofPrograms = programs.map((program) => `    ${program.name})\n${bodyOf(program)}      ;;\n`);
  const names = programs.map(({ name }) => name).join(' ');
  return `#compdef ${names}
# zsh completion for ${names.replace(' ', ' and ')}, printed by "vdisk completion zsh".

# Other files too where no name looks like an image: formats are recognized by content.
_vdisk_images() {
  _files -g ${quoted(`(#i)*(${IMAGE_SUFFIXES.join('|')})(-.)`)}
}

_vdisk_mount_options() {
  _values -s , option${words.map((word) => ` \\\n    ${word}`).join('')}
}

_vdisk() {
  local curcontext=$curcontext state line ret=1
  typeset -A opt_args
  case $service in
${ofPrograms.join('')}  esac
  return ret
}

# Sourced, or loaded by compinit?
if [[ \${funcstack[1]} == _vdisk ]]; then _vdisk "$@"; else compdef _vdisk ${names}; fi
`;
}

function bodyOf(program: Program): string {
  if (program.commands.length === 0) return `      _arguments -s -S${argumentsOf(program)} && ret=0\n`;
  const commands = program.commands.map(({ name, doc }) => `\n          ${quoted(`${name}:${plain(doc)}`)}`);
  const cases = program.commands.map(
    (command) => `          ${command.name})
      _arguments -s -S${argumentsOf(command)} && ret=0
            ;;
`,
  );
  return `      _arguments -C -s -S${argumentsOf({ ...program, operands: [] })} \\
        ': :->command' '*:: :->rest' && ret=0
      case $state in
        command)
          local -a commands=(${commands.join('')}
          )
          _describe command commands && ret=0
          ;;
        rest)
          case $words[1] in
${cases.join('')}          esac
          ;;
      esac
`;
}
