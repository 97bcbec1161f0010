/** The digests that examiners compare: those of forensic images and of their reports. */

export const ALGORITHMS = ['md5', 'sha1', 'sha256'] as const;
export type Algorithm = (typeof ALGORITHMS)[number];

/** In hexadecimal, lower case. */
export type Digests = Readonly<Partial<Record<Algorithm, string>>>;
