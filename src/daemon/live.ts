/** What can be done with a mount while it serves: the control socket, images that come and go, statistics. */

import { ImageError } from '../base/errors.ts';
import { removeStaleSockets } from '../control/client.ts';
import { prometheusText } from '../control/prometheus.ts';
import type { Ended, LogLevel } from '../control/protocol.ts';
import type { Mount } from '../transport/transport.ts';
import { Control } from './control.ts';
import { answererOf } from './control-verbs.ts';
import type { ExposedFile, OpenedImage } from './images.ts';
import { MetricsFile } from './metrics-file.ts';
import { Roster, type RosterContext } from './roster.ts';
import { StatsGatherer } from './stats.ts';

export interface LiveContext extends Omit<RosterContext, 'live'> {
  readonly mount: Mount;
  readonly setLogLevel: (level: LogLevel) => string;
}

export class Live {
  readonly #roster: Roster;
  readonly #control: Control | undefined;
  readonly #metrics: MetricsFile | undefined;

  private constructor(roster: Roster, control: Control | undefined, metrics: MetricsFile | undefined) {
    this.#roster = roster;
    this.#control = control;
    this.#metrics = metrics;
  }

  /** `opened` and `files`: as the mount begins; images that join or leave join or leave the list as well. */
  static async begin(
    context: LiveContext,
    opened: OpenedImage[],
    files: readonly ExposedFile[],
  ): Promise<Live> {
    const { config, tree, mount, log } = context;
    const roster = new Roster({ ...context, live: mount.live }, opened, files);
    const gatherer = new StatsGatherer(config, tree);
    const stats = () => gatherer.gather(roster.members);
    let control: Control | undefined;
    try {
      control = await Control.listen(config.mountpoint, answererOf({ ...context, roster, stats }));
      void removeStaleSockets();
    } catch (problem) {
      // The mount does without: vdisk list does not show it.
      log.info(`not controlled: ${ImageError.from(problem, 'io').message}`);
    }
    const text = (): string => prometheusText([stats()]);
    const metrics =
      config.metrics === undefined
        ? undefined
        : new MetricsFile(config.metrics, text, (warning) => log.warn(warning));
    return new Live(roster, control, metrics);
  }

  /** The mount has ended, and the images are closed. */
  end(ended: Ended): void {
    this.#roster.close();
    this.#metrics?.close();
    this.#control?.close(ended);
  }
}
