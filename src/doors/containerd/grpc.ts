/** Methods of a gRPC service as this door writes them, and errors as gRPC has them. */
import type {
  handleServerStreamingCall,
  handleUnaryCall,
  MethodDefinition,
  sendUnaryData,
  ServiceDefinition,
  ServiceError,
  UntypedHandleCall,
} from '@grpc/grpc-js';
import { status, Metadata } from '@grpc/grpc-js';
import { toLayerdError, type ErrorKind } from '../../core/errors.js';
import type { Message } from './protobuf.js';

/** A method ready to be served. */
export interface Method {
  definition: ServiceDefinition[string];
  handle: UntypedHandleCall;
}

/** A method that answers a message with a message. */
export function unary<Q, A>(
  path: string,
  question: Message<Q>,
  answer: Message<A>,
  work: (question: Q, signal: AbortSignal) => Promise<A>,
): Method {
  const handle: handleUnaryCall<Q, A> = (call, callback) => {
    const gone = new AbortController();
    call.on('cancelled', () => gone.abort());
    void settle(work(call.request, gone.signal), callback);
  };
  return { definition: definition(path, question, answer, false), handle };
}

async function settle<A>(work: Promise<A>, callback: sendUnaryData<A>): Promise<void> {
  try {
    callback(null, await work);
  } catch (thrown) {
    callback(grpcError(thrown));
  }
}

/** A method that answers with a stream of messages. */
export function streaming<Q, A>(
  path: string,
  question: Message<Q>,
  answer: Message<A>,
  work: (question: Q) => Iterable<A>,
): Method {
  const handle: handleServerStreamingCall<Q, A> = (call) => {
    const send = async (): Promise<void> => {
      for (const value of work(call.request)) {
        if (call.cancelled) return;
        if (!call.write(value)) await new Promise((resolve) => call.once('drain', resolve).once('cancelled', resolve));
      }
      call.end();
    };
    // a call that is destroyed instead leaves its client waiting
    send().catch((thrown: unknown) => call.emit('error', grpcError(thrown)));
  };
  return { definition: definition(path, question, answer, true), handle };
}

function definition<Q, A>(
  path: string,
  question: Message<Q>,
  answer: Message<A>,
  responseStream: boolean,
): MethodDefinition<Q, A> {
  return {
    path,
    requestStream: false,
    responseStream,
    requestSerialize: (value) => question.encode(value),
    requestDeserialize: (bytes) => question.decode(bytes),
    responseSerialize: (value) => answer.encode(value),
    responseDeserialize: (bytes) => answer.decode(bytes),
  };
}

const CODES: Record<ErrorKind, status> = {
  invalid: status.INVALID_ARGUMENT,
  not_found: status.NOT_FOUND,
  exists: status.ALREADY_EXISTS,
  precondition: status.FAILED_PRECONDITION,
  busy: status.UNAVAILABLE,
  exhausted: status.RESOURCE_EXHAUSTED,
  denied: status.PERMISSION_DENIED,
  unsupported: status.UNIMPLEMENTED,
  data_loss: status.DATA_LOSS,
  cancelled: status.CANCELLED,
  internal: status.INTERNAL,
};

/** An error as a client of gRPC meets it: the code decides what containerd does, the text is for people. */
export function grpcError(thrown: unknown): Pick<ServiceError, 'code' | 'details' | 'metadata'> & Error {
  const error = toLayerdError(thrown);
  const details = error.hint === '' ? error.message : `${error.message} (${error.hint})`;
  return Object.assign(new Error(details), { code: CODES[error.kind], details, metadata: new Metadata() });
}
