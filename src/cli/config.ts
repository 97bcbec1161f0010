/** `vdisk config check [NAME|FILE…]`: is the description of a mount right? */

import { readdirSync } from 'node:fs';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { type Command, FAILED, OK } from './command.ts';
import { ConfigProblems, configDirectory, configPath, readConfig } from './config-file.ts';
import { configure } from './mount-command.ts';

/** What is wrong with a file, a line each; none where it is fine. */
function problemsOf(path: string): readonly string[] {
  try {
    configure(readConfig(path));
    return [];
  } catch (problem) {
    if (problem instanceof ConfigProblems) return problem.problems;
    if (!(problem instanceof ImageError) || problem.kind !== 'usage') throw problem;
    const { message } = problem;
    return [message.startsWith(shownPath(path)) ? message : `${shownPath(path)}: ${message}`];
  }
}

function allFiles(): string[] {
  const directory = configDirectory();
  let names: string[];
  try {
    names = readdirSync(directory);
  } catch {
    throw new ImageError('usage', `${directory}: does not exist: there is nothing to check`);
  }
  return names
    .filter((name) => name.endsWith('.toml'))
    .sort()
    .map((name) => `${directory}/${name}`);
}

export const configCommand: Command = {
  usage: 'config <action> [files..]',
  describe: 'check the descriptions of mounts that vdisk-mount --config and its units take',
  take: (command) => {
    command
      .positional('action', { type: 'string', choices: ['check'], describe: 'what to do' })
      .positional('files', {
        type: 'string',
        array: true,
        describe: 'names (NAME for /etc/vdisk-mount/NAME.toml) or files; default: all of that directory',
      })
      .option('json', { type: 'boolean', describe: 'a JSON array on stdout' })
      .example('$0 config check', 'all in /etc/vdisk-mount; not root: ~/.config/vdisk-mount')
      .example('$0 config check ./backup.toml', 'every error with its line and column')
      .epilogue('Exit status: 0 all are fine, 1 one is not, 2 usage.');
  },
  run: (parsed) => {
    const given = ((parsed['files'] ?? []) as string[]).map(String);
    const paths = given.length > 0 ? given.map(configPath) : allFiles();
    const checked = paths.map((path) => ({ filename: path, problems: problemsOf(path) }));
    if (parsed['json'] === true) process.stdout.write(`${JSON.stringify(checked, null, 2)}\n`);
    else {
      for (const { filename, problems } of checked) {
        for (const line of problems) process.stderr.write(`${line}\n`);
        if (problems.length === 0) process.stdout.write(`${shownPath(filename)}: fine\n`);
      }
    }
    return checked.every(({ problems }) => problems.length === 0) ? OK : FAILED;
  },
};
