/** `vdisk completion`: what a shell needs to complete the command lines of vdisk and vdisk-mount. */

import type { Argv } from 'yargs';
import { type Command, OK } from './command.ts';
import { bashCompletion } from './completion/bash.ts';
import { fishCompletion } from './completion/fish.ts';
import { zshCompletion } from './completion/zsh.ts';
import { type Program, referenceOfMount, referenceOfVdisk } from './reference.ts';

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

const MAKERS: Readonly<Record<Shell, (programs: readonly Program[]) => string>> = {
  bash: bashCompletion,
  zsh: zshCompletion,
  fish: fishCompletion,
};

/** A script for `shell` to source; `declare` tells a parser the commands of vdisk. */
export function completion(shell: Shell, declare: (parser: Argv) => unknown): string {
  return MAKERS[shell]([referenceOfVdisk(declare), referenceOfMount()]);
}

/** `declared`: see `declare` of `completion`. */
export function completionCommand(declared: () => Promise<(parser: Argv) => unknown>): Command {
  return {
    usage: 'completion <shell>',
    describe: 'print what a shell needs to complete vdisk and vdisk-mount',
    take: (command) => {
      command
        .positional('shell', { type: 'string', choices: SHELLS, describe: 'for which shell' })
        .example('source <($0 completion bash)', 'in ~/.bashrc')
        .example('source <($0 completion zsh)', 'in ~/.zshrc, after compinit')
        .example('$0 completion fish | source', 'in ~/.config/fish/config.fish')
        .epilogue('Exit status: 0 done, 1 failed, 2 usage.');
    },
    run: async (parsed) => {
      process.stdout.write(completion(parsed['shell'] as Shell, await declared()));
      return OK;
    },
  };
}
