/** `vdisk doctor`: whether this machine can mount, and what to do where it cannot. */

import { type Command, FAILED, OK } from './command.ts';
import { CHECKS } from './doctor/checks.ts';
import type { Finding } from './doctor/finding.ts';
import { lookAtImage } from './doctor/held.ts';
import { thisMachine } from './doctor/machine.ts';
import { tryMount } from './doctor/trial.ts';

const MARKS: Readonly<Record<Finding['level'], string>> = { ok: 'ok  ', warning: 'note', problem: 'FAIL' };

function asText(findings: readonly Finding[]): string {
  return findings
    .flatMap(({ subject, level, text, mend }) => [
      `${MARKS[level]}  ${subject}: ${text}`,
      ...(mend === undefined ? [] : [`      → ${mend}`]),
    ])
    .map((line) => `${line}\n`)
    .join('');
}

async function doctor(images: readonly string[], trial: boolean, json: boolean): Promise<number> {
  const machine = thisMachine();
  const findings = CHECKS.flatMap((check) => check(machine));
  if (trial) findings.push(await tryMount());
  findings.push(...images.flatMap(lookAtImage));
  process.stdout.write(json ? `${JSON.stringify(findings, null, 2)}\n` : asText(findings));
  return findings.some(({ level }) => level === 'problem') ? FAILED : OK;
}

export const doctorCommand: Command = {
  usage: 'doctor [images..]',
  describe: 'say whether this machine can mount images, and what to do where it cannot',
  take: (command) => {
    command
      .positional('images', { type: 'string', array: true, describe: 'image files: who holds them?' })
      .option('quick', { type: 'boolean', describe: 'look only: no small image is mounted as a proof' })
      .option('json', { type: 'boolean', describe: 'a JSON array on stdout' })
      .example('$0 doctor', 'after installing')
      .example('$0 doctor disk.vhdx', 'why can it not be mounted?')
      .epilogue('Exit status: 0 all that a mount needs is there, 1 something is missing, 2 usage.');
  },
  run: (parsed) =>
    doctor([parsed['images'] ?? []].flat().map(String), parsed['quick'] !== true, parsed['json'] === true),
};
