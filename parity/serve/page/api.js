// Talking to the server: one streamed answer, and small questions.

export async function ask(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await reasonOf(answer));
  return answer.json();
}

// Streams an answer: calls `onChunk` with each chunk of a chat completion until its end.
export async function stream(body, signal, onChunk) {
  const answer = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  if (!answer.ok) throw new Error(await reasonOf(answer));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let isDone = false;
  while (!isDone) {
    const { value, done } = await reader.read();
    if (done) break;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue;
      const data = event.slice(6);
      if (data === "[DONE]") {
        isDone = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      onChunk(chunk);
    }
  }
  if (!isDone) throw new Error("The connection was lost before the answer ended.");
}

async function reasonOf(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The server answered ${answer.status} ${answer.statusText}`;
  }
}
