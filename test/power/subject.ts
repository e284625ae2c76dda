/** An engine whose store is to outlive power cuts: ours, or a peer. */
import type { Archive } from './images.js';
import type { Claims } from './ledger.js';

export interface StartOptions {
  /** Its store: a directory on the disk under test. */
  root: string;
  /** A directory for everything else: sockets, mount points. */
  home: string;
  environment: Readonly<Record<string, string>>;
}

export interface Subject {
  name: string;
  start(options: StartOptions): Promise<Running>;
}

/** The daemon. What it answers is durable, or should be. Every call throws where it refuses. */
export interface Running {
  load(archive: Archive): Promise<void>;
  tag(from: string, to: string): Promise<void>;
  removeImage(ref: string): Promise<void>;
  createContainer(name: string, ref: string): Promise<void>;
  removeContainer(name: string): Promise<void>;
  collect(): Promise<void>;
  /** What containers write, for engines that mount and commit them. */
  containers: Containers | null;
  /** Holds the store against what was acknowledged. Changes it: everything is removed in the end. */
  audit(claims: Claims, again: Archive): Promise<Findings>;
  /** Ends it at once. */
  kill(): Promise<void>;
}

export interface Containers {
  /** Writes a file into the container, and syncs it as a program that cares would do. */
  write(name: string, path: string, bytes: Buffer): Promise<void>;
  /** Returns the id of the new image. */
  commit(name: string, ref: string): Promise<string>;
}

/** What was found wrong after a power cut; empty and 0 where all is well. */
export interface Findings {
  /** Acknowledged things that are not there, and removed ones that are. */
  lost: string[];
  /** What is there and is not what it was. */
  damaged: string[];
  /** Bytes below the root that nothing accounts for. */
  unaccounted: number;
}

export function nothingFound(): Findings {
  return { lost: [], damaged: [], unaccounted: 0 };
}
