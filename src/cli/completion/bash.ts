/** Completion for bash 4.4 and newer, without the package bash-completion. */

import { IMAGE_SUFFIXES, type OptionReference, type Program, type Values } from '../reference.ts';

/** A word as bash reads it back. */
const quoted = (word: string): string =>
  /^[\w./=,+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;

/** What fills `offer`: the kind first, words behind it. */
function offerOf(values: Values): string {
  const words = typeof values === 'string' ? [values.replace(' ', '-')] : ['words', ...values];
  return `offer=(${words.map(quoted).join(' ')})`;
}

const line = (patterns: readonly string[], action: string): string =>
  `    ${patterns.map((pattern) => (pattern.endsWith('*') ? `'${pattern.slice(0, -1)}'*` : `'${pattern}'`)).join('|')}) ${action} ;;\n`;

const optionLines = (context: string, options: readonly OptionReference[]): string =>
  options
    .flatMap(({ names, value }) =>
      value === undefined
        ? []
        : [
            line(
              names.map((name) => `${context} ${name}`),
              offerOf(value.values),
            ),
          ],
    )
    .join('');

/** The script, for all programs. */
export function bashCompletion(programs: readonly Program[]): string {
  const contexts = programs.flatMap((program) => [
    { ...program, context: program.name },
    ...program.commands.map((command) => ({
      ...command,
      context: `${program.name} ${command.name}`,
      commands: [],
    })),
  ]);
  const values = contexts.map(({ context, options }) => optionLines(context, options)).join('');
  const options = contexts
    .map(({ context, options }) =>
      line(
        [context],
        `offer=(words ${options
          .flatMap(({ names }) => names)
          .map(quoted)
          .join(' ')})`,
      ),
    )
    .join('');
  const operands = contexts.map(({ context, operands, commands }) => {
    if (commands.length > 0) return line([`${context} 0`], offerOf(commands.map(({ name }) => name)));
    return operands
      .map(({ values }, at) => {
        // Behind operands that are repeated nobody knows which one it is: the last one takes the others in as well.
        const isRest =
          operands[at + 1] === undefined && operands.slice(0, at + 1).some((one) => one.isRepeated);
        return line([isRest ? `${context} *` : `${context} ${at}`], offerOf(values));
      })
      .join('');
  });
  const ofMount = programs.flatMap(({ options }) => options.filter(({ inMountOptions }) => inMountOptions));
  const mountWords = ofMount.map(({ names, value }) => names[0]!.slice(2) + (value === undefined ? '' : '='));
  return `${HEAD}
# What follows an option: fills offer. Fails where the option takes nothing.
_vdisk_value() {
  case $1 in
${values}    *) return 1 ;;
  esac
}

# The options of a program or of one of its commands.
_vdisk_options() {
  case $1 in
${options}  esac
}

# What the operand with this number may be.
_vdisk_operand() {
  case $1 in
${operands.join('')}  esac
}

_vdisk_mount_words=(${mountWords.map((word) => quoted(word.replaceAll('-', '_'))).join(' ')})
_vdisk_commands=' ${programs.flatMap(({ commands }) => commands.map(({ name }) => name)).join(' ')} '
_vdisk_suffixes='*@(${IMAGE_SUFFIXES.join('|')})'
${BODY}${programs.map(({ name }) => `${functionOf(name)}() { _vdisk_complete ${name}; }\ncomplete -F ${functionOf(name)} ${name}\n`).join('')}`;
}

const functionOf = (program: string): string => `_${program.replaceAll('-', '_')}_main`;

const HEAD = `# bash completion for vdisk and vdisk-mount, printed by "vdisk completion bash".
`;

/**
 * bash splits words at "=" and ":" too (COMP_WORDBREAKS), and replaces only what stands behind the last of them: words
 * are put together again, and what bash keeps (\`kept\`) is taken off from what is offered.
 */
const BODY = `
# Puts the words up to the cursor together: words, and of the last one cur and kept.
_vdisk_line() {
  local at piece joins=
  words=()
  for ((at = 0; at <= COMP_CWORD; at++)); do
    piece=\${COMP_WORDS[at]}
    if ((at > 0)) && [[ $joins || $piece == [=:]* ]]; then words[-1]+=$piece; else words+=("$piece"); fi
    joins=
    [[ $piece && ! \${piece//[=:]/} ]] && joins=yes
  done
  cur=\${words[-1]}
  [[ $joins ]] && piece=
  kept=\${cur:0:\${#cur}-\${#piece}}
}

# Replies with those of the words behind the first argument, a prefix, that begin with it and with what is typed.
_vdisk_reply_words() {
  local prefix=$1 word
  shift
  for word; do
    word=$prefix$word
    [[ $word == "$cur"* ]] && COMPREPLY+=("\${word#"$kept"}")
  done
}

# Replies with the files of a kind ($3) that begin with $2, a path behind the prefix $1.
_vdisk_reply_files() {
  local prefix=$1 begin=\${2//\\\\/} kind=$3 path real lower files=() fit=() directories=()
  begin=\${begin#[\\"\\']}
  compopt -o filenames 2>/dev/null
  while IFS= read -r path; do
    real=\${path/#\\~\\//$HOME/}
    lower=\${path,,}
    if [[ -d $real ]]; then directories+=("$path")
    elif [[ $lower == $_vdisk_suffixes || -b $real ]]; then fit+=("$path") files+=("$path")
    else files+=("$path"); fi
  done < <(compgen -f -- "$begin")
  case $kind in
    directories) files=() ;;
    # Formats are recognized by content: where no name looks like an image, every file may be one.
    images) ((\${#fit[@]})) && files=("\${fit[@]}") ;;
  esac
  for path in "\${directories[@]}" "\${files[@]}"; do
    path=$prefix$path
    COMPREPLY+=("\${path#"$kept"}")
  done
}

# Replies for a list of mount options: the last of them counts.
_vdisk_reply_mount_options() {
  local item=\${1##*,} before offer names
  compopt -o nospace 2>/dev/null
  before=\${cur%"$item"}
  if [[ $item == *=* ]]; then
    local name=\${item%%=*}
    if _vdisk_value "vdisk-mount --\${name//_/-}"; then _vdisk_reply "$before$name=" "\${item#*=}"; fi
    return
  fi
  names=("\${_vdisk_mount_words[@]}")
  [[ $item == *-* ]] && names=("\${names[@]//_/-}")
  _vdisk_reply_words "$before" "\${names[@]}"
}

# Replies with what offer says, for the typed text $2 with the prefix $1 before it.
_vdisk_reply() {
  case \${offer[0]} in
    words) _vdisk_reply_words "$1" "\${offer[@]:1}" ;;
    mount-options) _vdisk_reply_mount_options "$2" ;;
    other) ;;
    *) _vdisk_reply_files "$1" "$2" "\${offer[0]}" ;;
  esac
}

_vdisk_complete() {
  local context=$1 cur kept words at word offer=() count=0 ends=
  COMPREPLY=()
  _vdisk_line
  for ((at = 1; at < \${#words[@]} - 1; at++)); do
    word=\${words[at]}
    if [[ ! $ends && $word == -- ]]; then ends=yes
    elif [[ ! $ends && $word == -?* ]]; then
      if [[ $word != *=* ]] && _vdisk_value "$context $word"; then
        at=$((at + 1))
        if ((at == \${#words[@]} - 1)); then _vdisk_reply '' "$cur"; return; fi
      fi
    elif [[ $context == vdisk && $_vdisk_commands == *" $word "* ]]; then context="vdisk $word"
    else count=$((count + 1)); fi
  done
  offer=()
  if [[ ! $ends && $cur == --*=* ]]; then
    if _vdisk_value "$context \${cur%%=*}"; then _vdisk_reply "\${cur%%=*}=" "\${cur#*=}"; fi
    return
  fi
  if [[ ! $ends && $cur == -* ]]; then
    _vdisk_options "$context"
  else
    _vdisk_operand "$context $count"
  fi
  ((\${#offer[@]})) && _vdisk_reply '' "$cur"
}

`;
