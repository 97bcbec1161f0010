import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { manPages } from '../../../src/cli/man/pages.ts';
import { marked, paragraph, section, seeAlso, tagged } from '../../../src/cli/man/roff.ts';
import { referenceOfMount, referenceOfVdisk } from '../../../src/cli/reference.ts';
import { commandsDeclared } from '../../../src/cli/vdisk.ts';
import { DRIVERS } from '../../../src/formats/registry.ts';
import { gateOf, must, run } from '../../support/machine.ts';

const declareCommands = await commandsDeclared();

const FOLDER = join(import.meta.dirname, '../../../docs/man');
const pages = await manPages();
const page = (file: string): string => pages.find((one) => one.file === file)!.text;
/** As `escaped` writes a name. */
const inRoff = (name: string): string => name.replaceAll('-', '\\-');
const titles = (text: string): string[] => [...text.matchAll(/^\.SH (.*)$/gm)].map(([, title]) => title!);

describe('the man pages in docs/man', () => {
  it('are all, and no others', () => {
    expect(readdirSync(FOLDER).sort()).toEqual(pages.map(({ file }) => file).sort());
  });

  it.each(pages)('$file is what the sources say (if not: npm run docs)', ({ file, text }) => {
    expect(readFileSync(join(FOLDER, file), 'utf8')).toBe(text);
  });

  it('have the parts that readers look for', () => {
    const ofPrograms = ['NAME', 'SYNOPSIS', 'DESCRIPTION', 'OPTIONS', 'EXIT STATUS', 'EXAMPLES', 'SEE ALSO'];
    for (const file of ['vdisk.1', 'vdisk-mount.8']) {
      expect(titles(page(file)), file).toEqual(expect.arrayContaining(ofPrograms));
    }
    const ofFormats = titles(page('vdisk-image-formats.5'));
    expect(ofFormats).toEqual(expect.arrayContaining(DRIVERS.map(({ id }) => id.toUpperCase())));
  });

  it('name every option, command and field', () => {
    for (const { names } of referenceOfMount().options) {
      for (const name of names) expect(page('vdisk-mount.8')).toContain(`\\fB${inRoff(name)}\\fR`);
    }
    for (const command of referenceOfVdisk(declareCommands).commands) {
      const part = page('vdisk.1')
        .split(`\n.SS vdisk ${inRoff(command.name)}\n`)[1]
        ?.split(/\n\.S[SH] /)[0];
      for (const { names } of command.options) {
        if (!['--help', '--version'].includes(names[0]!))
          expect(part).toContain(`\\fB${inRoff(names[0]!)}\\fR`);
      }
    }
    for (const field of ['tableOffset', 'dataWriteGuid', 'parentModifyUuid', 'l1TableOffset']) {
      expect(page('vdisk-image-formats.5')).toContain(`\\fB${field}\\fR`);
    }
  });
});

describe('what groff and mandoc say of the man pages', () => {
  const groff = gateOf('program: groff');
  it.each(pages)(groff.title('$file: groff has no warning'), { skip: groff.skip }, async ({ text }) => {
    const said = await run('groff', ['-man', '-Tutf8', '-ww', '-z'], { input: text });
    expect(said).toEqual({ status: 0, stdout: '', stderr: '' });
  });

  const mandoc = gateOf('program: mandoc');
  it.each(pages)(mandoc.title('$file: mandoc has no warning'), { skip: mandoc.skip }, async ({ text }) => {
    const said = await run('mandoc', ['-Tlint', '-Wwarning'], { input: text });
    expect(said).toEqual({ status: 0, stdout: '', stderr: '' });
  });

  it(groff.title('any text is printed as it is'), { skip: groff.skip }, async () => {
    const hostile = [
      '.SH no title',
      "'br is no request here",
      '\\fBback\\e',
      '"quoted"',
      '-1 ^ ~',
      "it's … →",
    ];
    const source = [
      '.TH A 1\n.nh\n',
      section('A "B"', ...hostile.map((text) => paragraph(marked(text)))),
      tagged(hostile.map((text) => ({ tag: marked(text), text: marked(text) }))),
      seeAlso('a-b(1)'),
    ].join('');
    const shown = await must('groff', ['-man', '-Tutf8', '-ww', '-P-cbou'], { input: source });
    // As a paragraph, as a tag, and behind it.
    for (const text of hostile) expect(shown.split(text).length - 1, text).toBeGreaterThanOrEqual(3);
    const lines = shown.split('\n').map((line) => line.trim());
    expect(lines).toContain('A "B"');
    expect(lines).toContain('a-b(1)');
  });
});
