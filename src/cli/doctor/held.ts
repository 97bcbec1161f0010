/** Who has an image, and whether it could be mounted now. */

import { resolve } from 'node:path';
import { ImageError } from '../../base/errors.ts';
import { shownPath } from '../../base/text.ts';
import { openLayer } from '../../chain/layer.ts';
import { holdersOfFile } from '../../daemon/holders.ts';
import { TableAllocator } from '../../shared/paged-table.ts';
import { openFile } from '../../source/file.ts';
import { type Finding, ok, problem, warning } from './finding.ts';

/** Looks at the file of an image: changes nothing, takes locks only for a moment. */
export function lookAtImage(path: string): Finding[] {
  const place = resolve(path);
  const subject = shownPath(place);
  const findings: Finding[] = [];
  try {
    const source = openFile(place);
    try {
      const holders = holdersOfFile(source.share().fd);
      findings.push(
        holders.length === 0
          ? ok(subject, 'no other process has it open')
          : warning(
              subject,
              `is open in ${holders.join(', ')}`,
              'What reads only is no obstacle to a mount with -o ro.',
            ),
      );
    } finally {
      source.close();
    }
    const reading = tryToOpen(place, subject, 'read');
    findings.push(reading);
    if (reading.level === 'ok') findings.push(tryToOpen(place, subject, 'write'));
  } catch (failure) {
    findings.push(failed(subject, failure));
  }
  return findings;
}

function tryToOpen(path: string, subject: string, access: 'read' | 'write'): Finding {
  const how = access === 'read' ? 'read-only (-o ro)' : 'for writing';
  try {
    const context = {
      tables: new TableAllocator(),
      report: () => {},
      formatOptions: [],
      lock: true,
      holders: holdersOfFile,
    };
    const { source, image } = openLayer(path, access, undefined, context);
    try {
      if (access === 'write')
        image.prepareEdit({ tables: context.tables, report: () => {}, options: new Map() });
    } finally {
      source.close();
    }
    return ok(subject, `can be mounted ${how}`);
  } catch (failure) {
    if (access === 'read') return failed(subject, failure);
    const { text, hint } = told(subject, failure);
    return warning(subject, `cannot be mounted ${how}: ${text}`, hint);
  }
}

function failed(subject: string, failure: unknown): Finding {
  const { text, hint } = told(subject, failure);
  return problem(subject, `cannot be mounted: ${text}`, hint ?? 'vdisk check says what is damaged.');
}

/** The subject says already which file it is. */
function told(
  subject: string,
  failure: unknown,
): { readonly text: string; readonly hint: string | undefined } {
  const { message, hint } = ImageError.from(failure, 'bug');
  return { text: message.startsWith(`${subject}: `) ? message.slice(subject.length + 2) : message, hint };
}
