// Requests to the server, with the token of this tab: from the address (`#token=`), or typed in.

const KEY = 'distributary.admin.token';

const given = new URLSearchParams(location.hash.slice(1)).get('token');
if (given) {
  setToken(given);
  history.replaceState(null, '', location.pathname);
}

export function setToken(token) {
  try {
    sessionStorage.setItem(KEY, token);
  } catch { /* private window: until the page is closed */ }
  setToken.kept = token;
}

export function token() {
  try {
    return sessionStorage.getItem(KEY) ?? '';
  } catch {
    return setToken.kept ?? '';
  }
}

export const bearer = () => (token() ? { Authorization: `Bearer ${token()}` } : {});

/** `{ status, body }`, or `{ status, words }` of what was refused; status 0 if there was no answer. */
export async function ask(path, kind) {
  try {
    const response = await fetch(path, { headers: bearer(), cache: 'no-store' });
    if (!response.ok) return { status: response.status, words: (await response.text()).trim() };
    return { status: response.status, body: await response[kind]() };
  } catch {
    return { status: 0, words: 'The server does not answer.' };
  }
}
