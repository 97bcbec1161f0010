/** What `vdisk doctor` says of one thing. */

/**
 * - ok: as it should be.
 * - warning: something that one may want will not work.
 * - problem: mounting will not work.
 */
export type Level = 'ok' | 'warning' | 'problem';

export interface Finding {
  /** "/dev/fuse", "limits" */
  readonly subject: string;
  readonly level: Level;
  readonly text: string;
  /** What mends it: mostly a command to type. */
  readonly mend?: string;
}

export const ok = (subject: string, text: string): Finding => ({ subject, level: 'ok', text });

export const warning = (subject: string, text: string, mend?: string): Finding => ({
  subject,
  level: 'warning',
  text,
  ...(mend === undefined ? {} : { mend }),
});

export const problem = (subject: string, text: string, mend: string): Finding => ({
  subject,
  level: 'problem',
  text,
  mend,
});
