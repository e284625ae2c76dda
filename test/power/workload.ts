/** What goes on in a store while its disk is cut: several clients at a time, each with images and containers of its own. */
import type { Archive, Content } from './images.js';
import type { Claim, ContainerClaim, ImageClaim, Ledger } from './ledger.js';
import { noise, type Random } from './random.js';
import type { Running } from './subject.js';

const FILE_BYTES = 20_000;

/** Runs until `stopped` says so; the archives are dealt out to the clients. */
export async function work(options: {
  running: Running;
  ledger: Ledger;
  archives: readonly Archive[];
  clients: number;
  random: Random;
  stopped: () => boolean;
}): Promise<void> {
  const { running, ledger, archives, clients, random, stopped } = options;
  await Promise.all(
    Array.from({ length: clients }, async (_, index) => {
      const own = archives.filter((__, archive) => archive % clients === index);
      const client = new Client(running, ledger, own, random.fork(`client ${index}`), `c${index}`);
      while (!stopped()) await client.act();
    }),
  );
}

interface Kept {
  ref: string;
  image: ImageClaim;
}

interface KeptContainer extends ContainerClaim {
  name: string;
  of: Kept;
}

class Client {
  private readonly running: Running;
  private readonly ledger: Ledger;
  private readonly archives: readonly Archive[];
  private readonly random: Random;
  private readonly prefix: string;
  private images: Kept[] = [];
  private containers: KeptContainer[] = [];
  private count = 0;

  constructor(running: Running, ledger: Ledger, archives: readonly Archive[], random: Random, prefix: string) {
    this.running = running;
    this.ledger = ledger;
    this.archives = archives;
    this.random = random;
    this.prefix = prefix;
  }

  /** One request, chosen among those that make sense now; loads and containers more often than the rest. */
  async act(): Promise<void> {
    const image = this.random.pick(this.images);
    const container = this.random.pick(this.containers);
    const idle = this.images.filter(({ image: { imageId } }) => !this.isUsed(imageId));
    const unused = this.random.pick(idle);
    const acts = [() => this.load()];
    if (image !== undefined)
      acts.push(
        () => this.create(image),
        () => this.create(image),
        () => this.tag(image),
      );
    if (unused !== undefined && this.images.length > 3) acts.push(() => this.removeImage(unused));
    if (container !== undefined) {
      acts.push(
        () => this.write(container),
        () => this.commit(container),
        () => this.remove(container),
      );
      if (this.containers.length > 4) acts.push(() => this.remove(container));
    }
    acts.push(() => this.running.collect());
    await this.random.pick(acts)?.();
  }

  private isUsed(imageId: string): boolean {
    return this.containers.some(({ of }) => of.image.imageId === imageId);
  }

  private async load(): Promise<void> {
    const archive = this.random.pick(this.archives);
    if (archive === undefined) return;
    const { ref, imageId, content } = archive;
    await this.keep(ref, async () => {
      await this.running.load(archive);
      return { kind: 'image', imageId, content };
    });
  }

  private async tag({ ref, image }: Kept): Promise<void> {
    const target = `localhost/${this.prefix}-tagged-${this.random.below(3)}:1`;
    // A ref that moves away from an image that a container needs would leave it without a name.
    if (this.images.some((kept) => kept.ref === target)) return;
    await this.keep(target, async () => {
      await this.running.tag(ref, target);
      return image;
    });
  }

  private async removeImage({ ref }: Kept): Promise<void> {
    this.images = this.images.filter((kept) => kept.ref !== ref);
    await this.ledger.change(`image ${ref}`, async () => {
      await this.running.removeImage(ref);
      return null;
    });
  }

  private async create(of: Kept): Promise<void> {
    const name = `${this.prefix}-${(this.count += 1)}`;
    await this.ledger.change(`container ${name}`, async (): Promise<Claim> => {
      await this.running.createContainer(name, of.ref);
      return { kind: 'container', written: new Map() };
    });
    this.containers.push({ kind: 'container', written: new Map(), name, of });
  }

  private async write(container: KeptContainer): Promise<void> {
    const { containers } = this.running;
    if (containers === null) return;
    const path = `srv/written-${(this.count += 1)}`;
    const bytes = noise(`${container.name} ${path}`, FILE_BYTES);
    const { written } = await this.ledger.change(`container ${container.name}`, async (): Promise<ContainerClaim> => {
      await containers.write(container.name, path, bytes);
      return { kind: 'container', written: new Map([...container.written, [path, bytes]]) };
    });
    container.written = written;
  }

  private async commit({ name, of, written }: KeptContainer): Promise<void> {
    const { containers } = this.running;
    // a commit of nothing gives the same image again
    if (containers === null || written.size === 0) return;
    const content: Content = new Map([...of.image.content, ...written]);
    await this.keep(`localhost/${this.prefix}-committed-${(this.count += 1)}:1`, async (ref) => {
      return { kind: 'image', imageId: await containers.commit(name, ref), content };
    });
  }

  private async remove({ name }: KeptContainer): Promise<void> {
    this.containers = this.containers.filter((container) => container.name !== name);
    await this.ledger.change(`container ${name}`, async () => {
      await this.running.removeContainer(name);
      return null;
    });
  }

  private async keep(ref: string, make: (ref: string) => Promise<ImageClaim>): Promise<void> {
    const image = await this.ledger.change(`image ${ref}`, () => make(ref));
    this.images = [...this.images.filter((kept) => kept.ref !== ref), { ref, image }];
  }
}
