/**
 * What vdisk and vdisk-mount take, as data: completion and the man pages are made from it. The options of vdisk-mount
 * come from their table, the commands of vdisk from what they tell yargs: a recorder stands in for the parser, so that a
 * command is declared once.
 */

import type { Argv, Options, PositionalOptions } from 'yargs';
import { DRIVERS } from '../formats/registry.ts';
import { CONFIG_DOC, MOUNT_EXAMPLES, MOUNT_STATUSES } from './mount-help.ts';
import { MOUNT_OPTIONS, type OptionSpec } from './mount-options.ts';

/** What a value may be: one of these words, or what completion offers for it. 'other': nothing can be offered. */
export type Values =
  | readonly string[]
  | 'images'
  | 'files'
  | 'directories'
  | 'mountpoint'
  | 'mount options'
  | 'other';

export interface OptionReference {
  /** As typed, long ones first: "--format", "-r". */
  readonly names: readonly string[];
  /** undefined: a flag. */
  readonly value: { readonly shown: string; readonly values: Values } | undefined;
  readonly doc: string;
  /** In words. */
  readonly default: string | undefined;
  readonly isRepeatable: boolean;
  readonly isRequired: boolean;
  /** Whether `-o` of vdisk-mount takes it. */
  readonly inMountOptions: boolean;
}

export interface Operand {
  readonly name: string;
  readonly doc: string;
  readonly values: Values;
  readonly isOptional: boolean;
  /** One or more of them; the last one. */
  readonly isRepeated: boolean;
}

export interface Example {
  /** "$0" stands for the program. */
  readonly command: string;
  readonly doc: string;
}

export interface Command {
  readonly name: string;
  readonly doc: string;
  readonly operands: readonly Operand[];
  readonly options: readonly OptionReference[];
  readonly examples: readonly Example[];
  /** What its help ends with; undefined where that is nothing of its own. */
  readonly epilogue: string | undefined;
}

/** A program: its own options and operands, or its commands. */
export interface Program extends Command {
  readonly commands: readonly Command[];
}

/** Every program and command has them. */
const HELP: OptionReference = flag(['--help', '-h'], 'show help');
const VERSION: OptionReference = flag(['--version', '-V'], 'show the version');

function flag(names: readonly string[], doc: string): OptionReference {
  return {
    names,
    value: undefined,
    doc,
    default: undefined,
    isRepeatable: false,
    isRequired: false,
    inMountOptions: false,
  };
}

const typed = (name: string): string => (name.length === 1 ? `-${name}` : `--${name}`);

/** The suffixes of all formats, with the dot: by them completion offers images before other files. */
export const IMAGE_SUFFIXES: readonly string[] = DRIVERS.flatMap((driver) => driver.suffixes);

/** `shown`: what stands for the value. A text is the name of a file where it is said to be. */
function valuesOf(name: string, shown: string, doc: string, choices: readonly string[] | undefined): Values {
  if (choices !== undefined && choices.length > 0) return choices;
  if (/dir(ectory)?$/.test(name)) return 'directories';
  if (name === 'parent') return 'images';
  return shown === 'PATH' || (shown === 'VALUE' && /\bfile\b/.test(doc)) ? 'files' : 'other';
}

function optionOfMount(spec: OptionSpec): OptionReference {
  const { name, short, value, choices, doc } = spec;
  return {
    names: [`--${name}`, ...(short === undefined ? [] : [`-${short}`])],
    value:
      value === undefined
        ? undefined
        : { shown: choices?.join('|') ?? value, values: valuesOf(name, value, doc, choices) },
    doc,
    default: spec.default,
    isRepeatable: spec.repeatable === true,
    isRequired: false,
    inMountOptions: true,
  };
}

/** vdisk-mount, from its option table. */
export function referenceOfMount(): Program {
  const list = {
    names: ['-o'],
    value: { shown: 'OPTION[=VALUE][,…]', values: 'mount options' },
    doc:
      'options, separated by commas: every long option ("-" and "_" are the same), and those of mount(8) that say ' +
      'nothing here; a comma in a value is written "\\,", or the value is put in double quotes',
    default: undefined,
    isRepeatable: true,
    isRequired: false,
    inMountOptions: false,
  } as const;
  return {
    name: 'vdisk-mount',
    doc: 'show disk images as flat raw files',
    operands: [
      { name: 'IMAGE', doc: 'image files', values: 'images', isOptional: false, isRepeated: true },
      {
        name: 'MOUNTPOINT',
        doc: 'directory or file',
        values: 'mountpoint',
        isOptional: false,
        isRepeated: false,
      },
    ],
    options: [
      list,
      {
        ...flag(['--config'], CONFIG_DOC),
        value: { shown: 'NAME', values: 'files' },
      },
      flag(['-s'], 'ignore unknown words in -o'),
      ...MOUNT_OPTIONS.map(optionOfMount),
      HELP,
      { ...VERSION, doc: 'show the version and the formats' },
    ],
    examples: MOUNT_EXAMPLES.map(([command, doc]) => ({ command, doc })),
    epilogue: `Exit status: ${MOUNT_STATUSES.map(([status, what]) => `${status} ${what}`).join(', ')}.`,
    commands: [],
  };
}

/** vdisk, from what `declare` tells the parser. Throws where it tells something that the recorder does not know. */
export function referenceOfVdisk(declare: (parser: Argv) => unknown): Program {
  const told = record(declare);
  return {
    ...told,
    name: 'vdisk',
    doc: "look at virtual machines' disk images, change them, and control running mounts",
    options: [HELP, VERSION],
    commands: told.commands.map((command) => ({ ...command, options: [...command.options, HELP, VERSION] })),
  };
}

/** What yargs is told that changes nothing of what is taken. */
const UNRECORDED = new Set(
  (
    'scriptName usage parserConfiguration demandCommand strict version help alias wrap exitProcess fail check ' +
    'conflicts implies coerce group middleware showHelpOnFail recommendCommands'
  ).split(' '),
);

type Build = (parser: Argv) => unknown;
interface Recorded extends Program {
  readonly operands: Operand[];
  readonly options: OptionReference[];
  readonly examples: Example[];
  readonly commands: Command[];
  epilogue: string | undefined;
}

/** Runs `build` with a parser that only takes down what it is told. `usage`: "info <images..>". */
function record(build: Build, usage = '', doc = ''): Program {
  const [name = '', ...words] = usage.split(' ');
  const told: Recorded = {
    name,
    doc,
    operands: words.map(operandOf),
    options: [],
    examples: [],
    commands: [],
    epilogue: undefined,
  };
  const methods: Record<string, (...args: never[]) => void> = {
    command: (usage: string, doc: string, build: Build) => {
      told.commands.push(record(build, usage, doc));
    },
    positional: (name: string, options: PositionalOptions) => {
      const at = told.operands.findIndex((operand) => operand.name === name);
      if (at < 0) throw new Error(`${usage}: there is no operand ${name}`);
      told.operands[at] = describedOperand(told.operands[at]!, options);
    },
    option: (name: string, options: Options) => {
      if (options.hidden !== true) told.options.push(optionOfCommand(name, options));
    },
    example: (command: string, doc: string) => {
      told.examples.push({ command, doc });
    },
    epilogue: (text: string) => {
      told.epilogue = text;
    },
  };
  const parser: Argv = new Proxy({} as Argv, {
    get: (_target, method) => {
      const run = methods[String(method)];
      if (run === undefined && !UNRECORDED.has(String(method))) {
        throw new Error(`reference.ts knows nothing of the parser's ${String(method)}()`);
      }
      return (...args: never[]) => {
        run?.(...args);
        return parser;
      };
    },
  });
  build(parser);
  return told;
}

/** "<images..>", "[size]" */
function operandOf(word: string): Operand {
  const [, open, name, dots] = /^([<[])([\w-]+)(\.\.)?[>\]]$/.exec(word) ?? [];
  if (name === undefined) throw new Error(`${word}: no operand`);
  return { name, doc: '', values: 'files', isOptional: open === '[', isRepeated: dots !== undefined };
}

function describedOperand(operand: Operand, { type, choices, describe }: PositionalOptions): Operand {
  const words = (choices ?? []) as readonly string[];
  const doc = describe ?? '';
  let values: Values = 'files';
  if (words.length > 0) values = words;
  else if (type === 'number' || operand.name === 'size') values = 'other';
  else if (operand.name === 'mount') values = 'directories';
  else if (/image/i.test(`${operand.name} ${doc}`)) values = 'images';
  return { ...operand, doc, values };
}

function optionOfCommand(name: string, options: Options): OptionReference {
  const { type, alias, choices, describe, array } = options;
  const names = [name, ...[alias ?? []].flat()].sort((a, b) => b.length - a.length).map(typed);
  const ofMount = MOUNT_OPTIONS.find((spec) => spec.name === name);
  const text = type === 'number' || type === 'count' ? 'NUMBER' : (ofMount?.value ?? textFor(name));
  const words = choices as readonly string[] | undefined;
  const value = { shown: words?.join('|') ?? text, values: valuesOf(name, text, describe ?? '', words) };
  const otherwise = options.defaultDescription ?? options.default;
  return {
    names,
    value: type === 'boolean' ? undefined : value,
    doc: describe ?? '',
    default: otherwise === undefined ? undefined : String(otherwise),
    isRepeatable: array === true || ofMount?.repeatable === true,
    isRequired: options.demandOption === true,
    inMountOptions: false,
  };
}

const textFor = (name: string): string => (/size$/.test(name) ? 'SIZE' : 'VALUE');
