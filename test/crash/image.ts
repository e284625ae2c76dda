/** A small image with what makes the store take its less common ways, and the archive that it comes in. */
import { writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { sha256 } from '../../src/core/digest.js';
import {
  descriptor,
  layoutMembers,
  named,
  tarOf,
  testImage,
  type Member,
  type TestImage,
  type TestLayer,
} from '../unit/image-synthetic.js';

export const REF = 'localhost/crash:1';

/** What a container of the image has in `etc/lower`, and in `usr/lib/app/numbers`. */
export const LOWER = 'from below\n';
export const NUMBERS = Array.from({ length: 2000 }, (_, index) => `${index}\n`).join('');

/** Its second layer is compressed, its blob is kept therefore; all imply directories; the third hides a file. */
export function crashImage(): TestImage {
  const file = (path: string, text: string): Member => ({ path, bytes: Buffer.from(text) });
  return testImage([
    layerOf([file('etc/lower', LOWER), file('etc/hidden', 'x'), file('usr/bin/tool', 'tool')], false),
    layerOf(
      [file('usr/lib/app/numbers', NUMBERS), { path: 'usr/lib/app/again', hardlink: 'usr/lib/app/numbers' }],
      true,
    ),
    layerOf([file('etc/.wh.hidden', ''), { path: 'etc/link', symlink: 'lower' }], false),
  ]);
}

function layerOf(members: Member[], gzip: boolean): TestLayer {
  const tar = tarOf(members);
  const blob = gzip ? gzipSync(tar) : tar;
  const mediaType = `application/vnd.oci.image.layer.v1.tar${gzip ? '+gzip' : ''}`;
  return { tar, diffId: sha256(tar), blob, digest: sha256(blob), mediaType };
}

/** Writes it as an OCI archive. */
export function writeCrashImage(path: string): TestImage {
  const image = crashImage();
  writeFileSync(path, tarOf(layoutMembers([image], [descriptor(image.manifest, named(REF))])));
  return image;
}
